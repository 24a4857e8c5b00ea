package io.sessionpool.client;

import io.grpc.CallOptions;
import io.grpc.Deadline;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.sessionpool.v1.AttachRequest;
import io.sessionpool.v1.AttachResponse;
import io.sessionpool.v1.BackgroundPolicy;
import io.sessionpool.v1.BusyPolicy;
import io.sessionpool.v1.EventPart;
import io.sessionpool.v1.QueryRequest;
import io.sessionpool.v1.QueryResponse;
import io.sessionpool.v1.SessionPoolServiceGrpc;
import io.sessionpool.v1.TurnEvent;
import java.time.Duration;
import java.util.concurrent.CancellationException;
import java.util.function.Function;

/**
 * What a {@link Turn} reads: the calls that a turn takes, one after the other. It does not know the turn that
 * reads it, so that the garbage collector can take that.
 */
final class TurnReader {
  /** How long a delay of the service may be; the caller is told of what asks for more. */
  private static final Duration LONGEST_DELAY = Duration.ofSeconds(30);

  private final Connection connection;
  private final Deadline deadline;
  private final QueryRequest request;
  private final Closing closing = new Closing();

  /** How the turn is joined, from the next event on. */
  private volatile AttachRequest attach;

  private Source source;

  /** Whether there is something to join: an event was returned, or it is an Attach. */
  private boolean started;

  /** Whether an event of the turn was returned. */
  private boolean numbered;

  /** Whether the last event was a result. */
  private boolean finished;

  /** Of the call that is open: whether it is an Attach that has shown no event yet. */
  private boolean attaching;

  /** Since the last event. */
  private int failures;

  private SessionPoolException first;
  private RuntimeException end;

  /** The events of one call. */
  private interface Source {
    TurnEvent next() throws InterruptedException;
  }

  /**
   * @param request of a query; null for an Attach
   * @param deadline of all calls together; null for none
   */
  TurnReader(Connection connection, Deadline deadline, QueryRequest request, AttachRequest attach) {
    this.connection = connection;
    this.deadline = deadline;
    this.request = request;
    this.attach = attach;
    this.started = request == null;
  }

  String sessionId() {
    return attach.getSessionId();
  }

  String turnId() {
    return attach.getTurnId();
  }

  void close() {
    closing.close();
  }

  /** The next event, or null at the end of a turn that ended well. */
  TurnEvent read() {
    while (end == null) {
      try {
        if (source == null) {
          source = open();
        }
        TurnEvent event = source.next();
        if (event == null) {
          closing.close();
          return null;
        }
        note(event);
        return event;
      } catch (InterruptedException interrupted) {
        Thread.currentThread().interrupt();
        closing.close();
        end = new CancellationException("the reader was interrupted");
      } catch (SessionPoolException failed) {
        source = null;
        if (settled(failed)) {
          closing.close();
          return null;
        }
      } finally {
        if (end != null) {
          closing.close();
        }
      }
    }
    end.fillInStackTrace();
    throw end;
  }

  /** Asks for the stream: by Attach where there is something to join, and by Query before. */
  private Source open() throws InterruptedException {
    if (closing.isClosed()) {
      throw SessionPoolException.of(Status.CANCELLED.withDescription("the turn is closed"));
    }
    connection.awaitReady(deadline, closing);
    attaching = started;
    CallOptions options = connection.options(attach.getSessionId(), deadline);
    if (started) {
      ServerStream<AttachRequest, AttachResponse> stream =
          stream(SessionPoolServiceGrpc.getAttachMethod(), options, attach);
      return () -> whole(stream, item -> item.hasPart() ? item.getPart() : null, AttachResponse::getEvent);
    }
    ServerStream<QueryRequest, QueryResponse> stream =
        stream(SessionPoolServiceGrpc.getQueryMethod(), options, request);
    return () -> whole(stream, item -> item.hasPart() ? item.getPart() : null, QueryResponse::getEvent);
  }

  private <Q, R> ServerStream<Q, R> stream(MethodDescriptor<Q, R> method, CallOptions options, Q message) {
    ServerStream<Q, R> stream = new ServerStream<>(connection, method, options, message);
    closing.replace(stream::cancel);
    return stream;
  }

  /** Puts the events of a stream together, by what its items are: a part, or null, and an event. */
  private <R> TurnEvent whole(ServerStream<?, R> stream, Function<R, EventPart> part, Function<R, TurnEvent> event)
      throws InterruptedException {
    Parts parts = new Parts();
    while (true) {
      R item = stream.next(started);
      if (item == null) {
        return null;
      }
      EventPart piece = part.apply(item);
      TurnEvent whole = piece == null ? event.apply(item) : parts.add(piece);
      if (whole != null) {
        return whole;
      }
    }
  }

  /** Remembers where the turn is to be joined again. */
  private void note(TurnEvent event) {
    failures = 0;
    first = null;
    attaching = false;
    if (event.getSequence() == 0) {
      return;
    }
    AttachRequest.Builder next = attach.toBuilder().setFromSequence(event.getSequence() + 1);
    if (event.hasStarted()) {
      next.setSessionId(event.getStarted().getSessionId()).setTurnId(event.getStarted().getTurnId());
    }
    attach = next.build();
    started = true;
    numbered = true;
    finished = event.hasResult();
  }

  /**
   * Decides, after a call has failed, whether the turn is over and all of it was heard. If not, it is either
   * ended by an error, or another call is to be made, after a wait.
   */
  private boolean settled(SessionPoolException failed) {
    if (closing.isClosed()) {
      end = new CancellationException("the turn is closed");
      return false;
    }
    boolean lost = failed.isLostConnection();
    if (lost && finished && !waits()) {
      // Its last word was heard; only the call's own end was not.
      return true;
    }
    failures++;
    boolean hopeless =
        failures >= connection.attempts()
            || connection.isUnreachable(failed)
            || failed.retryDelay().compareTo(LONGEST_DELAY) > 0;
    if (hopeless || !mayGoOn(failed, lost)) {
      end = first == null ? failed : failed.after(first);
      return false;
    }
    if (first == null) {
      first = failed;
    }
    pause(failed.retryDelay());
    return false;
  }

  /** Whether another call neither repeats nor leaves out anything. */
  private boolean mayGoOn(SessionPoolException failed, boolean lost) {
    if (numbered && attach.getTurnId().isEmpty()) {
      // An Attach without a turn id, in the middle of a turn: by now another may be the last.
      return false;
    }
    boolean named = request != null && !request.getTurnId().isEmpty();
    if (lost) {
      return started || named;
    }
    if (failed.code() != Status.Code.UNAVAILABLE) {
      return false;
    }
    if (!started) {
      return named && failed.advice() != Advice.NO_RETRY;
    }
    if (failed.reason().equals("SHUTTING_DOWN") || failed.reason().equals("SESSION_MOVED")) {
      // The turn is another node's, which goes on, unless it is said what it had done by its end.
      return failed.advice() == Advice.RETRY_SAME_TURN;
    }
    // What Attach itself is refused with: a turn that has ended so says so again.
    return failed.advice() == Advice.RETRY && attaching;
  }

  /** Whether something may follow a result in this stream. */
  private boolean waits() {
    if (request == null) {
      return false;
    }
    if (request.getOnBusy() == BusyPolicy.BUSY_POLICY_STEER) {
      return true;
    }
    return request.getOnBackground() == BackgroundPolicy.BACKGROUND_POLICY_WAIT
        || (request.getOnBackground() == BackgroundPolicy.BACKGROUND_POLICY_UNSPECIFIED
            && request.getSessionId().isEmpty());
  }

  /** Waits before the next call: for what the service asks, otherwise longer each time. */
  private void pause(Duration asked) {
    Duration wait = asked.isZero() ? Connection.backoff(failures) : asked;
    try {
      if (closing.await(wait, deadline)) {
        end = new CancellationException("the turn is closed");
      } else if (deadline != null && deadline.isExpired()) {
        end = SessionPoolException.of(Status.DEADLINE_EXCEEDED.withDescription("while it was taken up again"));
      }
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      end = new CancellationException("the reader was interrupted");
    }
  }
}
