package io.sessionpool.client;

import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.time.Duration;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * One call with a stream of answers, for a reader that blocks. At most two messages wait for it: what the
 * reader does not take stays at the service.
 */
final class ServerStream<Q, R> {
  private static final int AHEAD = 2;
  private static final Duration LOOK = Duration.ofMillis(200);

  private final Connection connection;
  private final ClientCall<Q, R> call;
  private final BlockingQueue<Object> arrived = new LinkedBlockingQueue<>();

  /** How a call ended; the last that arrives. */
  private record End(Status status, Metadata trailers) {}

  /** Whether anything was heard of the service. */
  private volatile boolean heard;

  ServerStream(Connection connection, MethodDescriptor<Q, R> method, CallOptions options, Q request) {
    this.connection = connection;
    call = connection.channel().newCall(method, options);
    call.start(
        new ClientCall.Listener<R>() {
          @Override
          public void onHeaders(Metadata headers) {
            heard = true;
          }

          @Override
          public void onMessage(R message) {
            arrived.add(message);
          }

          @Override
          public void onClose(Status status, Metadata trailers) {
            arrived.add(new End(status, trailers));
          }
        },
        new Metadata());
    call.request(AHEAD);
    call.sendMessage(request);
    call.halfClose();
  }

  /**
   * The next message, or null at the end of a call that ended well.
   *
   * @param hasStarted whether the turn had, for what an error advises
   */
  @SuppressWarnings("unchecked")
  R next(boolean hasStarted) throws InterruptedException {
    Object next = first();
    if (next instanceof End end) {
      arrived.add(end);
      if (end.status.isOk()) {
        return null;
      }
      throw SessionPoolException.of(end.status, end.trailers, hasStarted);
    }
    call.request(1);
    return (R) next;
  }

  /**
   * What has arrived, or does. By the service config a call waits for a connection that was lost before it
   * began, for as long as its deadline allows: here no longer than the client waits for one.
   */
  private Object first() throws InterruptedException {
    long lost = System.nanoTime();
    while (!heard) {
      Object next = arrived.poll(LOOK.toMillis(), TimeUnit.MILLISECONDS);
      if (next != null) {
        return next;
      }
      if (connection.isReady()) {
        lost = System.nanoTime();
      } else if (System.nanoTime() - lost > connection.connectTimeout().toNanos()) {
        cancel();
        throw SessionPoolException.of(Status.UNAVAILABLE.withDescription("the connection was lost before the call"));
      }
    }
    return arrived.take();
  }

  /** Ends the call. May be called from any thread, and more than once. */
  void cancel() {
    call.cancel("the caller has left", null);
  }
}
