package io.sessionpool.client;

import static io.sessionpool.client.FakeService.awaitCancel;
import static io.sessionpool.client.FakeService.goOn;
import static io.sessionpool.client.FakeService.pieces;
import static io.sessionpool.client.FakeService.refusal;
import static io.sessionpool.client.FakeService.result;
import static io.sessionpool.client.FakeService.send;
import static io.sessionpool.client.FakeService.started;
import static io.sessionpool.client.FakeService.text;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.sessionpool.v1.AttachRequest;
import io.sessionpool.v1.AttachResponse;
import io.sessionpool.v1.BackgroundPolicy;
import io.sessionpool.v1.EventPart;
import io.sessionpool.v1.Heartbeat;
import io.sessionpool.v1.Payload;
import io.sessionpool.v1.QueryRequest;
import io.sessionpool.v1.QueryResponse;
import io.sessionpool.v1.SessionOptions;
import io.sessionpool.v1.TurnEvent;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** What a turn does when its connection is lost, and when the service sends it elsewhere. */
@Timeout(60)
class ReconnectTest extends TurnTestBase {
  /** The service is killed in mid-stream and started again: the turn is joined behind the last event. */
  @Test
  void aLostConnectionIsMadeAgain() throws Exception {
    service.query =
        (request, stream) -> {
          send(stream, started("t"), text(2, "one"));
          awaitCancel(() -> {});
        };
    AtomicReference<AttachRequest> joined = new AtomicReference<>();
    service.attach =
        (request, stream) -> {
          joined.set(request);
          goOn(stream, text(3, "two"), result(4, "one two"));
        };
    SessionOptions options = SessionOptions.newBuilder().setIncludePartialMessages(true).build();
    // Only a query that is sent again needs a turn id.
    QueryRequest.Builder request = REQUEST.toBuilder().clearTurnId().setPayload(Payload.PAYLOAD_BOTH);
    Turn turn = client.query(request.setOptions(options).build());
    List<TurnEvent> events = new ArrayList<>(List.of(turn.next(), turn.next()));
    service.kill();
    service.start();
    events.addAll(read(turn));
    assertEquals(List.of(started("t"), text(2, "one"), text(3, "two"), result(4, "one two")), events);
    AttachRequest.Builder want = AttachRequest.newBuilder().setSessionId("s").setTurnId("t").setFromSequence(3);
    assertEquals(want.setPayload(Payload.PAYLOAD_BOTH).setIncludePartialMessages(true).build(), joined.get());
  }

  /** What has come of an event in parts is thrown away with its connection. */
  @Test
  void aConnectionIsLostBetweenParts() {
    TurnEvent big = text(2, "x".repeat(100_000));
    List<EventPart> parts = pieces(big, 60_000);
    service.query =
        (request, stream) -> {
          send(stream, started("t"));
          stream.onNext(QueryResponse.newBuilder().setPart(parts.get(0)).build());
          throw LOST;
        };
    service.attach =
        (request, stream) -> {
          assertEquals(2, request.getFromSequence());
          stream.onNext(AttachResponse.newBuilder().setPart(parts.get(0)).build());
          if (service.calls.get() == 2) {
            throw LOST;
          }
          stream.onNext(AttachResponse.newBuilder().setPart(parts.get(1)).build());
          goOn(stream, result(3, "x"));
        };
    assertEquals(List.of(started("t"), big, result(3, "x")), read(client.query(REQUEST)));
  }

  @Test
  void aTurnThatIsGoneIsToldWithItsCause() {
    service.query =
        (request, stream) -> {
          send(stream, started("t"));
          throw LOST;
        };
    service.attach =
        (request, stream) -> {
          throw refusal(Status.Code.NOT_FOUND, "TURN_NOT_FOUND", Duration.ZERO, Map.of());
        };
    SessionPoolException failed = assertThrows(SessionPoolException.class, () -> read(client.query(REQUEST)));
    assertEquals("TURN_NOT_FOUND", failed.reason());
    assertEquals(Advice.RETRY_SAME_TURN, failed.advice());
    assertEquals(Status.Code.UNAVAILABLE, ((SessionPoolException) failed.getCause()).code());
    assertTrue(failed.getMessage().contains("reset"), failed.getMessage());
  }

  /** What becomes of a query that fails so: with a turn id, without one, and behind `started`. */
  static Stream<Arguments> failures() {
    Status.Code away = Status.Code.UNAVAILABLE;
    return Stream.of(
        Arguments.of(LOST, "again", "raised", "joined"),
        Arguments.of(told(away, "SESSION_MOVED"), "again", "raised", "joined"),
        Arguments.of(told(away, "SESSION_MOVED", "false"), "again", "raised", "raised"),
        Arguments.of(told(away, "SESSION_MOVED", "true"), "raised", "raised", "raised"),
        Arguments.of(told(away, "SHUTTING_DOWN"), "again", "raised", "joined"),
        Arguments.of(told(away, "SHUTTING_DOWN", "true"), "raised", "raised", "raised"),
        Arguments.of(told(away, "CONNECT_FAILED"), "again", "raised", "raised"),
        Arguments.of(told(away, "STORE_UNAVAILABLE"), "again", "raised", "raised"),
        Arguments.of(told(away, "CLI_EXITED", "false"), "again", "raised", "raised"),
        Arguments.of(told(away, "CLI_EXITED"), "raised", "raised", "raised"),
        Arguments.of(told(Status.Code.RESOURCE_EXHAUSTED, "POOL_AT_CAPACITY"), "raised", "raised", "raised"),
        Arguments.of(told(Status.Code.ABORTED, "SESSION_BUSY"), "raised", "raised", "raised"),
        Arguments.of(told(Status.Code.DATA_LOSS, "LISTENER_TOO_SLOW"), "raised", "raised", "raised"),
        Arguments.of(Status.INTERNAL.withDescription("a bug").asRuntimeException(), "raised", "raised", "raised"));
  }

  @ParameterizedTest
  @MethodSource("failures")
  void whatIsTriedAgain(StatusRuntimeException failure, String withId, String without, String behind) {
    assertEquals(withId, becomes(failure, REQUEST, false));
    assertEquals(without, becomes(failure, REQUEST.toBuilder().clearTurnId().build(), false));
    assertEquals(behind, becomes(failure, REQUEST, true));
  }

  private String becomes(StatusRuntimeException failure, QueryRequest asked, boolean behindStarted) {
    service.calls.set(0);
    service.query =
        (request, stream) -> {
          if (service.calls.get() > 1) {
            send(stream, started("t"), result(2, "again"));
            return;
          }
          if (behindStarted) {
            send(stream, started("t"));
          }
          throw failure;
        };
    service.attach = (request, stream) -> goOn(stream, result(2, "joined"));
    try {
      return client.query(asked).result().getResult();
    } catch (SessionPoolException raised) {
      return "raised";
    }
  }

  @Test
  void attemptsAreBounded() {
    service.query =
        (request, stream) -> {
          throw told(Status.Code.UNAVAILABLE, "CONNECT_FAILED");
        };
    try (SessionPoolClient three = service.builder().attempts(3).build()) {
      assertThrows(SessionPoolException.class, three.query(REQUEST)::result);
    }
    assertEquals(3, service.calls.get());
    service.query =
        (request, stream) -> {
          throw refusal(Status.Code.UNAVAILABLE, "CONNECT_FAILED", Duration.ofHours(1), Map.of());
        };
    SessionPoolException failed = assertThrows(SessionPoolException.class, client.query(REQUEST)::result);
    assertEquals(Duration.ofHours(1), failed.retryDelay());
    assertEquals(4, service.calls.get());
  }

  /** A result that was heard is the end, unless something may follow it. */
  @Test
  void aConnectionIsLostBehindTheResult() {
    service.query =
        (request, stream) -> {
          send(stream, started("t"), result(2, "done"));
          throw LOST;
        };
    service.attach =
        (request, stream) -> {
          throw told(Status.Code.NOT_FOUND, "TURN_NOT_FOUND");
        };
    assertEquals("done", client.query(REQUEST).result().getResult());
    QueryRequest.Builder waiting = REQUEST.toBuilder().setOnBackground(BackgroundPolicy.BACKGROUND_POLICY_WAIT);
    assertThrows(SessionPoolException.class, client.query(waiting.build())::result);
  }

  /** The deadline is of all calls together. */
  @Test
  void aDeadlineIsNotBegunAnew() throws Exception {
    endless();
    Turn turn = begun(client.withTimeout(Duration.ofSeconds(1)).query(REQUEST));
    service.kill();
    long began = System.nanoTime();
    SessionPoolException failed = assertThrows(SessionPoolException.class, turn::hasNext);
    assertEquals(Status.Code.DEADLINE_EXCEEDED, failed.code(), failed.getMessage());
    assertTrue(System.nanoTime() - began < TimeUnit.SECONDS.toNanos(3));
  }

  @Test
  void aTurnIsClosedWhileTheClientReconnects() throws Exception {
    endless();
    Turn turn = begun(client.query(REQUEST));
    service.kill();
    Future<Boolean> ended = threads.submit(turn::hasNext);
    assertThrows(TimeoutException.class, () -> ended.get(500, TimeUnit.MILLISECONDS));
    long began = System.nanoTime();
    turn.close();
    cancelled(ended);
    assertTrue(System.nanoTime() - began < TimeUnit.SECONDS.toNanos(2));
  }

  @Test
  void aServiceThatIsNotThereIsTold() throws Exception {
    service.kill();
    try (SessionPoolClient quick = service.builder().connectTimeout(Duration.ofMillis(500)).build()) {
      SessionPoolException failed = assertThrows(SessionPoolException.class, quick.query(REQUEST)::result);
      assertEquals(Status.Code.UNAVAILABLE, failed.code());
      assertTrue(failed.getMessage().contains("refused"), failed.getMessage());
    }
  }

  /** Many turns at once on one connection, which is lost under all of them. */
  @Test
  void manyTurnsAtOnce() throws Exception {
    int many = 100;
    Set<String> known = ConcurrentHashMap.newKeySet();
    CountDownLatch begun = new CountDownLatch(many);
    service.query =
        (request, stream) -> {
          send(stream, started(request.getTurnId()));
          if (known.add(request.getTurnId())) {
            begun.countDown();
            awaitCancel(() -> {});
          }
          // Otherwise the connection was lost before `started` had come.
          send(stream, result(2, request.getTurnId()));
        };
    service.attach = (request, stream) -> goOn(stream, result(request.getFromSequence(), request.getTurnId()));
    List<Future<String>> all = new ArrayList<>();
    for (int number = 0; number < many; number++) {
      QueryRequest request = REQUEST.toBuilder().setTurnId("t-" + number).build();
      all.add(threads.submit(() -> client.query(request).result().getResult()));
    }
    assertTrue(begun.await(30, TimeUnit.SECONDS));
    service.kill();
    service.start();
    for (int number = 0; number < many; number++) {
      assertEquals("t-" + number, all.get(number).get(30, TimeUnit.SECONDS));
    }
  }

  /** Turns that the CLI begins by itself follow in the stream, and it is the last of them that is joined. */
  @Test
  void aSecondTurnInTheStream() {
    // It counts as nothing.
    TurnEvent heartbeat = TurnEvent.newBuilder().setHeartbeat(Heartbeat.getDefaultInstance()).build();
    service.query =
        (request, stream) -> {
          send(stream, started("t"), result(2, "one"), started("b"), heartbeat);
          throw LOST;
        };
    service.attach =
        (request, stream) -> {
          assertEquals("b", request.getTurnId());
          assertEquals(2, request.getFromSequence());
          goOn(stream, result(2, "two"));
        };
    QueryRequest.Builder waiting = REQUEST.toBuilder().setOnBackground(BackgroundPolicy.BACKGROUND_POLICY_WAIT);
    assertEquals("two", client.query(waiting.build()).result().getResult());
  }

  /** Which turn it was nobody has said, and another may be the last by now. */
  @Test
  void anAttachToNoNamedTurnIsNotTakenUpAgain() {
    service.attach =
        (request, stream) -> {
          goOn(stream, text(3, "one"));
          throw LOST;
        };
    Turn turn = client.attach(AttachRequest.newBuilder().setSessionId("s").setFromSequence(3).build());
    assertEquals(text(3, "one"), turn.next());
    SessionPoolException failed = assertThrows(SessionPoolException.class, turn::hasNext);
    assertEquals(Status.Code.UNAVAILABLE, failed.code());
  }
}
