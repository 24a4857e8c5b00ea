package io.sessionpool.client;

import static io.sessionpool.client.FakeService.awaitCancel;
import static io.sessionpool.client.FakeService.refusal;
import static io.sessionpool.client.FakeService.send;
import static io.sessionpool.client.FakeService.started;
import static io.sessionpool.client.FakeService.text;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.sessionpool.v1.QueryRequest;
import io.sessionpool.v1.TurnEvent;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;

/** A service whose answers a test writes, a client of it, and what tests of turns have in common. */
abstract class TurnTestBase {
  static final QueryRequest REQUEST =
      QueryRequest.newBuilder().setSessionId("s").setTurnId("t").setPrompt("hello").build();
  static final StatusRuntimeException LOST = Status.UNAVAILABLE.withDescription("reset").asRuntimeException();

  final ExecutorService threads = Executors.newCachedThreadPool();
  FakeService service;
  SessionPoolClient client;

  @BeforeEach
  void start() throws Exception {
    service = new FakeService();
    client = service.client();
  }

  @AfterEach
  void stop() throws Exception {
    client.close();
    service.close();
    threads.shutdownNow();
  }

  static List<TurnEvent> read(Turn turn) {
    List<TurnEvent> events = new ArrayList<>();
    turn.forEach(events::add);
    return events;
  }

  /** Has turns go on until their callers leave, which the latch tells. */
  CountDownLatch endless() {
    CountDownLatch left = new CountDownLatch(1);
    service.query =
        (request, stream) -> {
          send(stream, started("t"), text(2, "one"));
          awaitCancel(left::countDown);
        };
    return left;
  }

  static Turn begun(Turn turn) {
    turn.next();
    turn.next();
    return turn;
  }

  static void cancelled(Future<Boolean> ended) {
    ExecutionException failed = assertThrows(ExecutionException.class, () -> ended.get(10, TimeUnit.SECONDS));
    assertInstanceOf(CancellationException.class, failed.getCause());
  }

  static StatusRuntimeException told(Status.Code code, String reason, String... toolUseSeen) {
    Map<String, String> metadata = toolUseSeen.length == 0 ? Map.of() : Map.of("tool_use_seen", toolUseSeen[0]);
    return refusal(code, reason, Duration.ofMillis(1), metadata);
  }
}
