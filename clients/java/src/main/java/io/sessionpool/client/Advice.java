package io.sessionpool.client;

import io.grpc.Status;
import java.util.Map;

/** What to do about an error. */
public enum Advice {
  /** It would fail again, or something might happen twice. */
  NO_RETRY,
  /** Nothing of the call took effect. It may be sent again as it is, after its delay. */
  RETRY,
  /**
   * It may have taken effect. A query may be sent again with the same turn id: nothing whose result
   * was told runs twice.
   */
  RETRY_SAME_TURN,
  /** Events are missing. An attach from the sequence in metadata {@code limit} joins the turn again. */
  ATTACH;

  /**
   * The table of docs/calling.md as far as it is about asking again.
   *
   * @param hasStarted whether the turn had
   */
  static Advice of(Status.Code code, String reason, Map<String, String> metadata, boolean hasStarted) {
    String toolUseSeen = metadata.getOrDefault("tool_use_seen", "");
    switch (reason) {
      case "":
        return code == Status.Code.UNAVAILABLE ? RETRY_SAME_TURN : NO_RETRY;
      case "POOL_AT_CAPACITY":
      case "QUEUE_FULL":
      case "MEMORY_BUDGET_EXCEEDED":
      case "TENANT_QUOTA_EXCEEDED":
      case "SESSION_BUSY":
      case "CONNECT_FAILED":
        return RETRY;
      case "STORE_UNAVAILABLE":
        return toolUseSeen.equals("true") ? NO_RETRY : RETRY;
      case "SHUTTING_DOWN":
      case "SESSION_MOVED":
        if (!toolUseSeen.isEmpty()) {
          return toolUseSeen.equals("false") ? RETRY : NO_RETRY;
        }
        return reason.equals("SHUTTING_DOWN") && !hasStarted ? RETRY : RETRY_SAME_TURN;
      case "CLI_EXITED":
      case "MEMORY_LIMIT":
      case "TASK_LIMIT_EXCEEDED":
      case "WORKSPACE_LIMIT_EXCEEDED":
        return toolUseSeen.equals("false") ? RETRY : NO_RETRY;
      case "LISTENER_TOO_SLOW":
      case "EVENTS_EXPIRED":
        return ATTACH;
      default:
        return NO_RETRY;
    }
  }
}
