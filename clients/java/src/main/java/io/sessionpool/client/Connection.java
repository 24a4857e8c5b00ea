package io.sessionpool.client;

import io.grpc.CallOptions;
import io.grpc.ConnectivityState;
import io.grpc.Deadline;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthGrpc;
import java.time.Duration;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/** The channel of a client, and how long and how often it is tried. */
final class Connection {
  private static final Duration FIRST_BACKOFF = Duration.ofMillis(200);
  private static final Duration LAST_BACKOFF = Duration.ofSeconds(2);
  private static final double JITTER = 0.2;
  /** In the words of an error: nothing answered for as long as the client waits. */
  private static final String UNREACHABLE = "no connection within ";

  private final ManagedChannel channel;
  private final Duration connectTimeout;
  private final int attempts;

  Connection(ManagedChannel channel, Duration connectTimeout, int attempts) {
    this.channel = channel;
    this.connectTimeout = connectTimeout;
    this.attempts = attempts;
  }

  ManagedChannel channel() {
    return channel;
  }

  Duration connectTimeout() {
    return connectTimeout;
  }

  boolean isReady() {
    return channel.getState(false) == ConnectivityState.READY;
  }

  int attempts() {
    return attempts;
  }

  CallOptions options(String sessionId, Deadline deadline) {
    CallOptions options = CallOptions.DEFAULT.withOption(Metadatas.SESSION, sessionId);
    return deadline == null ? options : options.withDeadline(deadline);
  }

  /** The wait behind so many failures. */
  static Duration backoff(int failures) {
    double millis = Math.min(FIRST_BACKOFF.toMillis() * Math.pow(2, failures - 1), LAST_BACKOFF.toMillis());
    double jitter = ThreadLocalRandom.current().nextDouble(-JITTER, JITTER);
    return Duration.ofNanos((long) (millis * (1 + jitter) * 1_000_000));
  }

  /**
   * Waits for a connection, for as long as it may, and fails with the reason if there is none. The channel's
   * own waits between its tries grow up to two minutes, so they are cut short.
   */
  void awaitReady(Deadline deadline, Closing closing) throws InterruptedException {
    Deadline limit = Deadline.after(connectTimeout.toNanos(), TimeUnit.NANOSECONDS);
    limit = deadline == null ? limit : limit.minimum(deadline);
    int failures = 0;
    while (true) {
      ConnectivityState state = channel.getState(true);
      if (state == ConnectivityState.READY) {
        return;
      }
      if (closing.isClosed()) {
        throw SessionPoolException.of(Status.CANCELLED.withDescription("the turn is closed"));
      }
      if (state == ConnectivityState.SHUTDOWN) {
        throw SessionPoolException.of(Status.FAILED_PRECONDITION.withDescription("the client is closed"));
      }
      if (limit.isExpired()) {
        throw unreachable(deadline);
      }
      if (state == ConnectivityState.TRANSIENT_FAILURE) {
        closing.await(backoff(++failures), limit);
        channel.resetConnectBackoff();
      }
      CountDownLatch changed = new CountDownLatch(1);
      channel.notifyWhenStateChanged(state, changed::countDown);
      awaitChange(changed, closing, limit);
    }
  }

  private static void awaitChange(CountDownLatch changed, Closing closing, Deadline limit)
      throws InterruptedException {
    // Who closes does not know of this latch: looked at again a few times a second.
    Deadline look = Deadline.after(200, TimeUnit.MILLISECONDS);
    while (!closing.isClosed() && !limit.isExpired() && !look.isExpired()) {
      if (changed.await(Math.min(50, limit.timeRemaining(TimeUnit.MILLISECONDS)), TimeUnit.MILLISECONDS)) {
        return;
      }
    }
  }

  /** Why there is no connection. Calls of the contract would wait for one, by the service config; this one says. */
  private SessionPoolException unreachable(Deadline deadline) {
    if (deadline != null && deadline.isExpired()) {
      return SessionPoolException.of(Status.DEADLINE_EXCEEDED.withDescription("there is no connection"));
    }
    String why = "";
    try {
      HealthGrpc.newBlockingStub(channel)
          .withDeadlineAfter(1, TimeUnit.SECONDS)
          .check(HealthCheckRequest.getDefaultInstance());
    } catch (StatusRuntimeException failed) {
      why = ": " + SessionPoolException.of(failed.getStatus()).getMessage();
    }
    return SessionPoolException.of(
        Status.UNAVAILABLE.withDescription(UNREACHABLE + connectTimeout.toMillis() + " ms" + why));
  }

  boolean isUnreachable(SessionPoolException failed) {
    String words = failed.status().getDescription();
    return words != null && words.startsWith(UNREACHABLE);
  }
}
