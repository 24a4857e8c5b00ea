package io.sessionpool.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import io.sessionpool.v1.ErrorReason;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** How a call failed. */
public final class SessionPoolException extends RuntimeException {
  /** The domain of the service's own errors. */
  public static final String DOMAIN = "sessionpool.v1";

  private static final long serialVersionUID = 1;
  private static final String PREFIX = "ERROR_REASON_";
  /** gRPC's words for a stream that ended without a status: it was reset, or a proxy has ended it with data. */
  private static final List<String> WITHOUT_STATUS =
      List.of("RST_STREAM", "before headers", "end-of-stream", "unexpected EOS");

  private final transient Status status;
  private final String words;
  private final String reason;
  private final transient Map<String, String> metadata;
  private final transient List<FieldViolation> violations;
  private final Duration retryDelay;
  private final Advice advice;

  private SessionPoolException(Details details, Advice advice, String words, Throwable cause) {
    super((details.reason.isEmpty() ? details.status.getCode().name() : details.reason) + ": " + words, cause);
    this.status = details.status;
    this.words = words;
    this.reason = details.reason;
    this.metadata = details.metadata;
    this.violations = List.copyOf(details.violations);
    this.retryDelay = details.retryDelay;
    this.advice = advice;
  }

  /** Of the end of a call. */
  static SessionPoolException of(Status status, Metadata trailers, boolean hasStarted) {
    Details details = new Details(status, trailers);
    Advice advice = Advice.of(status.getCode(), details.reason, details.metadata, hasStarted);
    String words = status.getDescription() == null ? "" : status.getDescription();
    if (details.reason.isEmpty() && status.getCause() != null) {
      words = (words + ": " + status.getCause().getMessage()).strip();
    }
    return new SessionPoolException(details, advice, words, status.getCause());
  }

  static SessionPoolException of(Status status) {
    return of(status, new Metadata(), false);
  }

  /** Of a turn that could not be taken up again, with what that was tried because of. */
  SessionPoolException after(SessionPoolException first) {
    boolean gone =
        reason.equals("TURN_NOT_FOUND") || reason.equals("SESSION_NOT_FOUND") || reason.equals("EVENTS_EXPIRED");
    Details details = new Details(status, new Metadata());
    details.reason = reason;
    details.metadata = metadata;
    details.violations.addAll(violations);
    details.retryDelay = retryDelay;
    String told = words + " (after: " + first.getMessage() + ")";
    return new SessionPoolException(details, gone ? Advice.RETRY_SAME_TURN : advice, told, first);
  }

  /** gRPC's code. */
  public Status.Code code() {
    return status.getCode();
  }

  /** gRPC's status. */
  public Status status() {
    return status;
  }

  /**
   * The service's reason, such as {@code SESSION_BUSY}; empty if the error is not the service's own, as
   * when the connection was lost.
   */
  public String reason() {
    return reason;
  }

  /** The reason as the contract has it: UNRECOGNIZED if it is that of a newer service. */
  public ErrorReason errorReason() {
    if (reason.isEmpty()) {
      return ErrorReason.ERROR_REASON_UNSPECIFIED;
    }
    try {
      return ErrorReason.valueOf(PREFIX + reason);
    } catch (IllegalArgumentException unknown) {
      return ErrorReason.UNRECOGNIZED;
    }
  }

  /** What the service said with it: session_id, turn_id, tool_use_seen and others. */
  public Map<String, String> metadata() {
    return metadata;
  }

  /** The fields that are wrong, of INVALID_ARGUMENT and POLICY_DENIED. */
  public List<FieldViolation> violations() {
    return violations;
  }

  /** What to do about it. */
  public Advice advice() {
    return advice;
  }

  /** How long the service asks to wait before another try; zero if it does not say. */
  public Duration retryDelay() {
    return retryDelay;
  }

  /** Whether it is the network's or a proxy's, and no answer of the service. */
  boolean isLostConnection() {
    if (!reason.isEmpty()) {
      return false;
    }
    switch (code()) {
      case UNAVAILABLE:
        return true;
      case INTERNAL:
      case UNKNOWN:
      case CANCELLED:
        return WITHOUT_STATUS.stream().anyMatch(words::contains);
      default:
        return false;
    }
  }

  /** What the trailers of a call say. */
  private static final class Details {
    private final Status status;
    private String reason = "";
    private Map<String, String> metadata = Map.of();
    private final List<FieldViolation> violations = new ArrayList<>();
    private Duration retryDelay = Duration.ZERO;

    Details(Status status, Metadata trailers) {
      this.status = status;
      for (Any detail : StatusProto.fromStatusAndTrailers(status, trailers).getDetailsList()) {
        try {
          add(detail);
        } catch (InvalidProtocolBufferException unreadable) {
          // What cannot be read says nothing.
        }
      }
    }

    private void add(Any detail) throws InvalidProtocolBufferException {
      if (detail.is(ErrorInfo.class)) {
        ErrorInfo info = detail.unpack(ErrorInfo.class);
        if (info.getDomain().equals(DOMAIN)) {
          reason = info.getReason();
          metadata = Map.copyOf(info.getMetadataMap());
        }
      } else if (detail.is(RetryInfo.class)) {
        com.google.protobuf.Duration delay = detail.unpack(RetryInfo.class).getRetryDelay();
        retryDelay = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
      } else if (detail.is(BadRequest.class)) {
        for (BadRequest.FieldViolation violation : detail.unpack(BadRequest.class).getFieldViolationsList()) {
          violations.add(new FieldViolation(violation.getField(), violation.getDescription()));
        }
      }
    }
  }
}
