package io.sessionpool.client;

import static io.sessionpool.client.FakeService.pieces;
import static io.sessionpool.client.FakeService.result;
import static io.sessionpool.client.FakeService.send;
import static io.sessionpool.client.FakeService.started;
import static io.sessionpool.client.FakeService.text;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Status;
import io.sessionpool.v1.EventPart;
import io.sessionpool.v1.QueryResponse;
import io.sessionpool.v1.TurnEvent;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Flow;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(60)
class TurnTest extends TurnTestBase {
  @Test
  void aTurnIsReadToItsEnd() {
    service.query = (request, stream) -> send(stream, started("t"), text(2, "one"), result(3, "one"));
    Turn turn = client.query(REQUEST);
    assertEquals(List.of(started("t"), text(2, "one"), result(3, "one")), read(turn));
    assertEquals("t", turn.turnId());
    assertEquals("s", turn.sessionId());
    assertFalse(turn.hasNext());
  }

  @Test
  void anEventInPartsIsOne() {
    TurnEvent big = text(2, "x".repeat(5_000_000));
    service.query =
        (request, stream) -> {
          send(stream, started("t"));
          pieces(big, 3 << 20).forEach(part -> stream.onNext(QueryResponse.newBuilder().setPart(part).build()));
          send(stream, result(3, "x"));
        };
    assertEquals(List.of(started("t"), big, result(3, "x")), read(client.query(REQUEST)));
  }

  @Test
  void aPartThatIsMissingIsAnError() {
    List<EventPart> parts = pieces(text(2, "some words"), 5);
    service.query = (request, stream) -> stream.onNext(QueryResponse.newBuilder().setPart(parts.get(1)).build());
    SessionPoolException failed = assertThrows(SessionPoolException.class, () -> read(client.query(REQUEST)));
    assertEquals(Status.Code.DATA_LOSS, failed.code());
  }

  @Test
  void closeEndsTheCallAndWhoReadsIt() throws Exception {
    CountDownLatch left = endless();
    Turn turn = begun(client.query(REQUEST));
    Future<Boolean> ended = threads.submit(turn::hasNext);
    turn.close();
    cancelled(ended);
    assertTrue(left.await(30, TimeUnit.SECONDS));
    assertThrows(CancellationException.class, turn::hasNext);
  }

  @Test
  void aThreadThatIsInterruptedEndsTheCall() throws Exception {
    CountDownLatch left = endless();
    Turn turn = begun(client.query(REQUEST));
    Thread.currentThread().interrupt();
    assertThrows(CancellationException.class, turn::hasNext);
    assertTrue(Thread.interrupted());
    assertTrue(left.await(30, TimeUnit.SECONDS));
  }

  @Test
  void aTurnThatNobodyHoldsIsClosed() throws Exception {
    CountDownLatch left = endless();
    begun(client.query(REQUEST));
    long began = System.nanoTime();
    while (!left.await(50, TimeUnit.MILLISECONDS)) {
      System.gc();
      // Before the client's timeout would end the call.
      assertTrue(System.nanoTime() - began < TimeUnit.SECONDS.toNanos(20), "the call goes on");
    }
  }

  @Test
  void aDeadlineEndsATurn() throws Exception {
    CountDownLatch left = endless();
    SessionPoolClient quick = client.withTimeout(Duration.ofMillis(300));
    SessionPoolException failed = assertThrows(SessionPoolException.class, quick.query(REQUEST)::result);
    assertEquals(Status.Code.DEADLINE_EXCEEDED, failed.code());
    assertTrue(left.await(30, TimeUnit.SECONDS));
  }

  /** Who does not read holds up nobody else on the connection, and loses nothing. */
  @Test
  void aSlowReader() {
    String big = "x".repeat(100_000);
    int many = 300;
    service.query =
        (request, stream) -> {
          send(stream, started("t"));
          for (int sequence = 2; request.getSessionId().equals("s") && sequence <= many; sequence++) {
            send(stream, text(sequence, big));
          }
        };
    Turn slow = client.query(REQUEST);
    slow.next();
    for (int i = 0; i < 20; i++) {
      assertEquals(1, read(client.query(REQUEST.toBuilder().setSessionId("quick").build())).size());
    }
    long next = 2;
    for (TurnEvent event : slow) {
      assertEquals(next++, event.getSequence());
    }
    assertEquals(many + 1, next);
  }

  /** A subscriber that asks for one event at a time, and notes what it is told. */
  private static final class Noting implements Flow.Subscriber<TurnEvent> {
    private final LinkedBlockingQueue<Object> told = new LinkedBlockingQueue<>();
    private Flow.Subscription subscription;

    @Override
    public void onSubscribe(Flow.Subscription given) {
      subscription = given;
      told.add("subscribed");
    }

    @Override
    public void onNext(TurnEvent event) {
      told.add(event);
    }

    @Override
    public void onError(Throwable failed) {
      told.add(failed);
    }

    @Override
    public void onComplete() {
      told.add("complete");
    }

    Object next() throws InterruptedException {
      return told.poll(10, TimeUnit.SECONDS);
    }
  }

  @Test
  void aSubscriberIsGivenWhatItAsksFor() throws Exception {
    service.query = (request, stream) -> send(stream, started("t"), text(2, "one"), result(3, "one"));
    Noting noting = new Noting();
    Flow.Publisher<TurnEvent> publisher = client.query(REQUEST).publisher(threads);
    publisher.subscribe(noting);
    assertEquals("subscribed", noting.next());
    noting.subscription.request(1);
    assertEquals(started("t"), noting.next());
    assertEquals(null, noting.told.poll(100, TimeUnit.MILLISECONDS));
    noting.subscription.request(Long.MAX_VALUE);
    assertEquals(text(2, "one"), noting.next());
    assertEquals(result(3, "one"), noting.next());
    assertEquals("complete", noting.next());
    Noting second = new Noting();
    publisher.subscribe(second);
    second.next();
    assertInstanceOf(IllegalStateException.class, second.next());
  }

  @Test
  void aSubscriberIsToldOfAnErrorAndMayCancel() throws Exception {
    CountDownLatch left = endless();
    Noting noting = new Noting();
    client.query(REQUEST).publisher(threads).subscribe(noting);
    noting.next();
    noting.subscription.request(10);
    assertEquals(started("t"), noting.next());
    noting.subscription.cancel();
    assertTrue(left.await(30, TimeUnit.SECONDS));

    service.query =
        (request, stream) -> {
          throw told(Status.Code.ABORTED, "SESSION_BUSY");
        };
    Noting failing = new Noting();
    client.query(REQUEST).publisher(threads).subscribe(failing);
    failing.next();
    failing.subscription.request(1);
    assertEquals("SESSION_BUSY", ((SessionPoolException) failing.next()).reason());
  }
}
