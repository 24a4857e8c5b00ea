package io.sessionpool.client;

import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import io.grpc.Status;
import io.sessionpool.v1.EventPart;
import io.sessionpool.v1.TurnEvent;

/** An event that comes in parts. */
final class Parts {
  private ByteString data = ByteString.EMPTY;
  private int next;

  /** Takes a part, and returns the event with the last of them, otherwise null. */
  TurnEvent add(EventPart part) {
    if (part.getIndex() != next) {
      throw broken("part " + part.getIndex() + " of event " + part.getSequence() + " in the place of part " + next);
    }
    next++;
    data = data.concat(part.getData());
    if (!part.getLast()) {
      return null;
    }
    try {
      return TurnEvent.parseFrom(data);
    } catch (InvalidProtocolBufferException unreadable) {
      throw broken("event " + part.getSequence() + " in parts: " + unreadable.getMessage());
    }
  }

  /** Of data that no connection made again would mend. */
  private static SessionPoolException broken(String words) {
    return SessionPoolException.of(Status.DATA_LOSS.withDescription(words));
  }
}
