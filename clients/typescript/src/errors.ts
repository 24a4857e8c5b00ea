/**
 * What calls fail with: the service's `ErrorInfo`, `RetryInfo` and `BadRequest` as errors, with an advice. The
 * table of advices is that of docs/calling.md. Nothing here does I/O.
 */
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { type ServiceError, status } from "@grpc/grpc-js";

const DETAILS = "grpc-status-details-bin";
const NOTHING_RAN = new Set([
  "POOL_AT_CAPACITY",
  "QUEUE_FULL",
  "MEMORY_BUDGET_EXCEEDED",
  "TENANT_QUOTA_EXCEEDED",
  "SESSION_BUSY",
  "CONNECT_FAILED",
  "STORE_UNAVAILABLE",
]);
const EVENTS_MISSING = new Set(["LISTENER_TOO_SLOW", "EVENTS_EXPIRED"]);
/** It depends on whether a tool may have run. */
const CUT_OFF = new Set([
  "CLI_EXITED",
  "MEMORY_LIMIT",
  "TASK_LIMIT_EXCEEDED",
  "WORKSPACE_LIMIT_EXCEEDED",
  "SHUTTING_DOWN",
  "SESSION_MOVED",
]);

/**
 * What to do about an error. `RETRY`: the same call may be made again, after `retryDelayMs` where there is one.
 * `RETRY_SAME_TURN`: the same, but only with the same `turnId`. `ATTACH`: events are missing, and metadata
 * `limit` says from where they are kept. `NO_RETRY`: it would fail again, or do again what was done.
 */
export type Advice = "RETRY" | "RETRY_SAME_TURN" | "ATTACH" | "NO_RETRY";

/** A field of the request that was refused, and why. */
export interface FieldViolation {
  field: string;
  description: string;
}

/** What the trailers of an error say. */
export interface Details {
  reason: string;
  domain: string;
  metadata: Record<string, string>;
  retryDelayMs: number | undefined;
  fields: FieldViolation[];
}

/** A call that failed. The class says the code; `reason` says more, where the service sent one. */
export class SessionPoolError extends Error {
  /** The name of an `ErrorReason` without its prefix; empty where the service sent none. */
  readonly reason: string;
  readonly domain: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly retryDelayMs: number | undefined;
  /** What is wrong with the request, with `INVALID_ARGUMENT` and `POLICY_DENIED`. */
  readonly fields: readonly FieldViolation[];

  constructor(
    readonly code: status,
    readonly details: string,
    said: Details,
    public advice: Advice,
    options?: ErrorOptions,
  ) {
    super(`${said.reason || status[code]}: ${details}`, options);
    this.name = new.target.name;
    this.reason = said.reason;
    this.domain = said.domain;
    this.metadata = said.metadata;
    this.retryDelayMs = said.retryDelayMs;
    this.fields = said.fields;
  }
}

/** Fields out of their bounds. */
export class InvalidArgumentError extends SessionPoolError {}
/** What the policy does not allow. */
export class PermissionDeniedError extends SessionPoolError {}
/** Credentials that are missing, wrong, expired or revoked. */
export class UnauthenticatedError extends SessionPoolError {}
/** Something has to change before the call can be made again: options, a budget, the operator's part. */
export class FailedPreconditionError extends SessionPoolError {}
/** A bound of the pool, the tenant or the session. */
export class ResourceExhaustedError extends SessionPoolError {}
/** A turn is running, and the request does not want to wait. */
export class SessionBusyError extends SessionPoolError {}
/** No such session, turn, prompt or task. */
export class NotFoundError extends SessionPoolError {}
/** A deadline has passed: the call's own, or one of the service's. */
export class DeadlineExceededError extends SessionPoolError {}
/** The service, or what it needs, is not there just now. */
export class UnavailableError extends SessionPoolError {}
/** The connection broke, or there was none: what became of the call is not known. */
export class ConnectionLostError extends UnavailableError {}
/** The caller has cancelled the call. */
export class CancelledError extends SessionPoolError {}
/** Somebody has stopped the turn before it had a result. */
export class TurnInterruptedError extends SessionPoolError {}
/** Events are not kept any more, or came faster than they were read. */
export class EventsMissingError extends SessionPoolError {}

const CLASSES: Partial<Record<status, typeof SessionPoolError>> = {
  [status.INVALID_ARGUMENT]: InvalidArgumentError,
  [status.PERMISSION_DENIED]: PermissionDeniedError,
  [status.UNAUTHENTICATED]: UnauthenticatedError,
  [status.FAILED_PRECONDITION]: FailedPreconditionError,
  [status.RESOURCE_EXHAUSTED]: ResourceExhaustedError,
  [status.ABORTED]: SessionBusyError,
  [status.NOT_FOUND]: NotFoundError,
  [status.DEADLINE_EXCEEDED]: DeadlineExceededError,
  [status.UNAVAILABLE]: UnavailableError,
  [status.CANCELLED]: CancelledError,
  [status.DATA_LOSS]: EventsMissingError,
  [status.OUT_OF_RANGE]: EventsMissingError,
};

/** The error of a failed call. `started`: whether its turn had begun; `cancelled`: by the caller. */
export function errorOf(failed: ServiceError, { started = false, cancelled = false } = {}): SessionPoolError {
  const encoded = failed.metadata?.get(DETAILS)[0];
  const said = encoded instanceof Uint8Array ? parseDetails(encoded) : noDetails();
  const { code, details } = failed;
  const cause = { cause: failed };
  if (said.reason === "" && !cancelled && isLost(code, details)) {
    return new ConnectionLostError(code, details, said, "RETRY_SAME_TURN", cause);
  }
  if (said.reason === "TURN_INTERRUPTED") {
    return new TurnInterruptedError(code, details, said, "NO_RETRY", cause);
  }
  return new (CLASSES[code] ?? SessionPoolError)(code, details, said, adviceOf(said, started), cause);
}

function isLost(code: status, details: string): boolean {
  if (code === status.UNAVAILABLE || code === status.CANCELLED) return true;
  const unclear = code === status.INTERNAL || code === status.UNKNOWN;
  return unclear && /RST_STREAM|stream removed|without trailers|ended by the server/i.test(details);
}

/** What to do about an error of the service. `started`: whether the call's turn had begun. */
export function adviceOf(said: Details, started: boolean): Advice {
  const toolUseSeen = said.metadata["tool_use_seen"];
  if (NOTHING_RAN.has(said.reason) || (said.reason === "SHUTTING_DOWN" && !started)) return "RETRY";
  if (EVENTS_MISSING.has(said.reason)) return "ATTACH";
  if (CUT_OFF.has(said.reason) && toolUseSeen === "false") return "RETRY";
  const moved = said.reason === "SESSION_MOVED" || said.reason === "SHUTTING_DOWN";
  return moved && toolUseSeen === undefined ? "RETRY_SAME_TURN" : "NO_RETRY";
}

/** Whether the turn may go on at another node. One that was stopped says whether a tool may have run. */
export function runsElsewhere(error: SessionPoolError): boolean {
  const moved = error.reason === "SESSION_MOVED" || error.reason === "SHUTTING_DOWN";
  return moved && error.metadata["tool_use_seen"] === undefined;
}

export function noDetails(): Details {
  return { reason: "", domain: "", metadata: {}, retryDelayMs: undefined, fields: [] };
}

/** Reads a `google.rpc.Status`; what cannot be read says nothing. */
export function parseDetails(encoded: Uint8Array): Details {
  const said = noDetails();
  try {
    // google.rpc.Status: 3 is `details`, each a google.protobuf.Any with type URL and value.
    for (const detail of messages(encoded, 3)) {
      const type = strings(detail, 1)[0]?.split("/").at(-1);
      const value = messages(detail, 2)[0] ?? new Uint8Array();
      if (type === "google.rpc.ErrorInfo") {
        said.reason = strings(value, 1)[0] ?? "";
        said.domain = strings(value, 2)[0] ?? "";
        for (const entry of messages(value, 3)) said.metadata[strings(entry, 1)[0] ?? ""] = strings(entry, 2)[0] ?? "";
      } else if (type === "google.rpc.RetryInfo") {
        const delay = messages(value, 1)[0] ?? new Uint8Array();
        said.retryDelayMs = number(delay, 1) * 1000 + number(delay, 2) / 1e6;
      } else if (type === "google.rpc.BadRequest") {
        said.fields = messages(value, 1).map((violation) => ({
          field: strings(violation, 1)[0] ?? "",
          description: strings(violation, 2)[0] ?? "",
        }));
      }
    }
  } catch {
    return noDetails();
  }
  return said;
}

/** The fields of this number, by what reads one. */
function fields<T>(encoded: Uint8Array, wanted: number, read: (reader: BinaryReader) => T): T[] {
  const reader = new BinaryReader(encoded);
  const found: T[] = [];
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    if (number === wanted) found.push(read(reader));
    else reader.skip(type, number);
  }
  return found;
}

const messages = (encoded: Uint8Array, wanted: number) => fields(encoded, wanted, (reader) => reader.bytes());
const strings = (encoded: Uint8Array, wanted: number) => fields(encoded, wanted, (reader) => reader.string());
const number = (encoded: Uint8Array, wanted: number) =>
  Number(fields(encoded, wanted, (reader) => reader.int64()).at(-1) ?? 0);
