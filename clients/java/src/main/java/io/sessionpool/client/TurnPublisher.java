package io.sessionpool.client;

import io.sessionpool.v1.TurnEvent;
import java.util.concurrent.Executor;
import java.util.concurrent.Flow;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;

/** A turn for one subscriber, which is given as many events as it asks for. */
final class TurnPublisher implements Flow.Publisher<TurnEvent> {
  private final Turn turn;
  private final Executor executor;
  private final AtomicBoolean taken = new AtomicBoolean();

  TurnPublisher(Turn turn, Executor executor) {
    this.turn = turn;
    this.executor = executor;
  }

  @Override
  public void subscribe(Flow.Subscriber<? super TurnEvent> subscriber) {
    if (taken.getAndSet(true)) {
      subscriber.onSubscribe(new Refused());
      subscriber.onError(new IllegalStateException("a turn is for one subscriber"));
      return;
    }
    subscriber.onSubscribe(new Reading(subscriber));
  }

  private static final class Refused implements Flow.Subscription {
    @Override
    public void request(long count) {}

    @Override
    public void cancel() {}
  }

  private final class Reading implements Flow.Subscription, Runnable {
    private final Flow.Subscriber<? super TurnEvent> subscriber;
    /** Events that were asked for and not given. Who raises it from 0 has them read. */
    private final AtomicLong wanted = new AtomicLong();
    private volatile boolean over;
    private volatile boolean isWrong;

    Reading(Flow.Subscriber<? super TurnEvent> subscriber) {
      this.subscriber = subscriber;
    }

    @Override
    public void request(long count) {
      isWrong |= count <= 0;
      long more = Math.max(count, 1);
      long before = wanted.getAndUpdate(now -> now + more < 0 ? Long.MAX_VALUE : now + more);
      if (before == 0 && !over) {
        executor.execute(this);
      }
    }

    @Override
    public void cancel() {
      over = true;
      turn.close();
    }

    @Override
    public void run() {
      try {
        do {
          if (isWrong) {
            throw new IllegalArgumentException("fewer than one event is asked for");
          }
          if (over) {
            return;
          }
          if (!turn.hasNext()) {
            over = true;
            subscriber.onComplete();
            return;
          }
          subscriber.onNext(turn.next());
        } while (wanted.decrementAndGet() > 0);
      } catch (RuntimeException failed) {
        turn.close();
        if (!over) {
          over = true;
          subscriber.onError(failed);
        }
      }
    }
  }
}
