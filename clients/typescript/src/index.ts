/**
 * A client of session-pool: turns on Claude CLI processes as streams of events. Messages are those of the
 * contract, in `pb`. Failed calls reject with a `SessionPoolError`.
 */
import { randomUUID } from "node:crypto";

import type { TurnEvent } from "./gen/sessionpool/v1/session_pool";

export { type ClientOptions, defaultServiceConfig, type Tls } from "./channel";
export { type CallOptions, Client, type Health } from "./client";
export {
  type Advice,
  CancelledError,
  ConnectionLostError,
  DeadlineExceededError,
  EventsMissingError,
  FailedPreconditionError,
  type FieldViolation,
  InvalidArgumentError,
  NotFoundError,
  PermissionDeniedError,
  ResourceExhaustedError,
  SessionBusyError,
  SessionPoolError,
  TurnInterruptedError,
  UnauthenticatedError,
  UnavailableError,
} from "./errors";
export * as pb from "./gen/sessionpool/v1/session_pool";
export { TurnStream } from "./stream";
export type { TurnEvent };

/** An id for a turn, which makes a `query` safe to repeat. */
export function newTurnId(): string {
  return randomUUID();
}

/** The text of an `assistant` event; of any other nothing. */
export function text(event: TurnEvent): string {
  if (event.kind?.$case !== "assistant") return "";
  return event.kind.value.content
    .map(({ block }) => (block?.$case === "text" ? block.value.text : ""))
    .join("");
}
