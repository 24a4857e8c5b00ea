package io.sessionpool.client;

import io.grpc.Deadline;
import java.time.Duration;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** Whether a turn is closed, and the call that is to be cancelled when it is. */
final class Closing {
  private final CountDownLatch closed = new CountDownLatch(1);
  private Runnable cancel = () -> {};

  boolean isClosed() {
    return closed.getCount() == 0;
  }

  /** Names the call that is open. One that was opened while somebody closed is cancelled at once. */
  synchronized void replace(Runnable cancel) {
    this.cancel = cancel;
    if (isClosed()) {
      cancel.run();
    }
  }

  synchronized void close() {
    closed.countDown();
    cancel.run();
  }

  /** Waits, no longer than up to the deadline; true if it is closed. */
  boolean await(Duration wait, Deadline deadline) throws InterruptedException {
    long nanos = wait.toNanos();
    if (deadline != null) {
      nanos = Math.min(nanos, deadline.timeRemaining(TimeUnit.NANOSECONDS));
    }
    return closed.await(nanos, TimeUnit.NANOSECONDS);
  }
}
