package io.sessionpool.client;

import io.grpc.Deadline;
import io.grpc.Status;
import io.sessionpool.v1.SessionPoolServiceGrpc;
import io.sessionpool.v1.TurnEvent;
import io.sessionpool.v1.WatchSessionRequest;
import io.sessionpool.v1.WatchSessionResponse;
import io.sessionpool.v1.WatchedEvent;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.concurrent.CancellationException;

/**
 * The items of a session that is followed, as the contract has them, but that an event that comes in parts is
 * one {@code event}. For one reader; {@link #close}, from any thread, ends the call.
 */
public final class Watch implements Iterable<WatchSessionResponse>, Iterator<WatchSessionResponse>, AutoCloseable {
  private final Connection connection;
  private final Deadline deadline;
  private final WatchSessionRequest request;
  private final Closing closing = new Closing();
  private ServerStream<WatchSessionRequest, WatchSessionResponse> stream;
  private WatchSessionResponse ahead;
  private boolean ended;

  Watch(Connection connection, Deadline deadline, WatchSessionRequest request) {
    this.connection = connection;
    this.deadline = deadline;
    this.request = request;
  }

  /** Itself, for a loop. */
  @Override
  public Iterator<WatchSessionResponse> iterator() {
    return this;
  }

  @Override
  public boolean hasNext() {
    if (ahead == null && !ended) {
      ended = true;
      ahead = read();
      ended = ahead == null;
    }
    return ahead != null;
  }

  @Override
  public WatchSessionResponse next() {
    if (!hasNext()) {
      throw new NoSuchElementException();
    }
    WatchSessionResponse item = ahead;
    ahead = null;
    return item;
  }

  private WatchSessionResponse read() {
    try {
      if (stream == null) {
        connection.awaitReady(deadline, closing);
        stream =
            new ServerStream<>(
                connection,
                SessionPoolServiceGrpc.getWatchSessionMethod(),
                connection.options(request.getSessionId(), deadline),
                request);
        closing.replace(stream::cancel);
      }
      return whole();
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      close();
      throw new CancellationException("the reader was interrupted");
    } catch (SessionPoolException failed) {
      if (closing.isClosed() && failed.code() == Status.Code.CANCELLED) {
        throw new CancellationException("it is closed");
      }
      throw failed;
    }
  }

  private WatchSessionResponse whole() throws InterruptedException {
    Parts parts = new Parts();
    while (true) {
      WatchSessionResponse item = stream.next(false);
      if (item == null || !item.hasPart()) {
        return item;
      }
      TurnEvent event = parts.add(item.getPart().getPart());
      if (event != null) {
        WatchedEvent.Builder whole = WatchedEvent.newBuilder().setEvent(event);
        whole.setTurnId(item.getPart().getTurnId()).setCursor(item.getPart().getCursor());
        return WatchSessionResponse.newBuilder().setEvent(whole).build();
      }
    }
  }

  /** Ends the call. */
  @Override
  public void close() {
    closing.close();
  }
}
