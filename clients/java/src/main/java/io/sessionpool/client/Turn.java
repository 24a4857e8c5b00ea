package io.sessionpool.client;

import io.sessionpool.v1.ContentBlock;
import io.sessionpool.v1.TurnEvent;
import io.sessionpool.v1.TurnResult;
import java.lang.ref.Cleaner;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.concurrent.CancellationException;
import java.util.concurrent.Executor;
import java.util.concurrent.Flow;

/**
 * The events of a turn, as one stream over all connections that it takes.
 *
 * <p>The call begins when the first event is asked for. A connection that is lost behind {@code started} is
 * made again, and the turn joined by Attach behind the last event that was returned: each event comes once.
 * The service interrupts a turn that nobody listens to, so a turn that is to survive that needs {@code
 * on_disconnect} CONTINUE; then it also goes on when its caller leaves, and an interrupt stops it. A query
 * that fails before anything was returned is sent again where the error says that it may be, and only if it
 * has a turn id.
 *
 * <p>It is for one reader, which is given a {@link SessionPoolException} for every end but a good one. {@link
 * #close} may be called from any thread and ends the call: a reader is given a {@link CancellationException}.
 * So is one whose thread is interrupted. A turn that nobody holds any more is closed by the garbage collector.
 */
public final class Turn implements Iterable<TurnEvent>, Iterator<TurnEvent>, AutoCloseable {
  private static final Cleaner CLEANER = Cleaner.create();

  private final TurnReader reader;
  private TurnEvent ahead;
  private boolean ended;

  Turn(TurnReader reader) {
    this.reader = reader;
    CLEANER.register(this, reader::close);
  }

  /** Itself, for a loop. A loop that is left early does not end the call: {@link #close} does. */
  @Override
  public Iterator<TurnEvent> iterator() {
    return this;
  }

  /** Waits for the next event; false at the end of a turn that ended well. */
  @Override
  public boolean hasNext() {
    if (ahead == null && !ended) {
      ahead = reader.read();
      ended = ahead == null;
    }
    return ahead != null;
  }

  @Override
  public TurnEvent next() {
    if (!hasNext()) {
      throw new NoSuchElementException();
    }
    TurnEvent event = ahead;
    ahead = null;
    return event;
  }

  /**
   * Reads the rest of the turn and returns its result, the last one if turns that the CLI began by itself
   * follow in the stream; null if there was none.
   */
  public TurnResult result() {
    TurnResult result = null;
    try (this) {
      while (hasNext()) {
        TurnEvent event = next();
        if (event.hasResult()) {
          result = event.getResult();
        }
      }
    }
    return result;
  }

  /** The events, for one subscriber. The executor's thread waits while an event is asked for. */
  public Flow.Publisher<TurnEvent> publisher(Executor executor) {
    return new TurnPublisher(this, executor);
  }

  /** The text of the model's message that an event is, and nothing of another event. */
  public static String text(TurnEvent event) {
    StringBuilder text = new StringBuilder();
    for (ContentBlock block : event.getAssistant().getContentList()) {
      text.append(block.getText().getText());
    }
    return text.toString();
  }

  /** The session's id. One of its own has it from {@code started} on. */
  public String sessionId() {
    return reader.sessionId();
  }

  /** The turn's id, from {@code started} on. */
  public String turnId() {
    return reader.turnId();
  }

  /** Ends the call. What becomes of the turn then is its {@code on_disconnect}'s to say. */
  @Override
  public void close() {
    reader.close();
  }
}
