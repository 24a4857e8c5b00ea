/**
 * Where a stream of a turn stands, over all the connections that it takes: which event is next, and what to ask
 * for when a connection is lost. It does no I/O.
 */
import { status } from "@grpc/grpc-js";

import { ConnectionLostError, runsElsewhere, type SessionPoolError } from "./errors";
import {
  AttachRequest,
  type AttachResponse,
  BackgroundPolicy,
  type EventPart,
  type QueryRequest,
  type QueryResponse,
  TurnEvent,
} from "./gen/sessionpool/v1/session_pool";

export type TurnRequest = { kind: "query"; message: QueryRequest } | { kind: "attach"; message: AttachRequest };

const FIRST_DELAY_MS = 200;
const LONGEST_DELAY_MS = 2000;
const JITTER = 0.2;
/** Of errors while a stream is taken up again: the service has been started anew, or has forgotten the turn. */
const FORGOTTEN = new Set(["TURN_NOT_FOUND", "SESSION_NOT_FOUND", "EVENTS_EXPIRED"]);

/** Puts events together that arrive in parts. */
export class EventAssembler {
  private parts: Uint8Array[] = [];

  /** The whole event, with its last part. */
  take(part: EventPart): TurnEvent | undefined {
    // What is left of an event that was cut off with its connection goes.
    if (part.index === 0) this.parts = [];
    this.parts.push(part.data);
    if (!part.last) return undefined;
    const event = TurnEvent.decode(Buffer.concat(this.parts));
    this.parts = [];
    return event;
  }
}

/** The state of a Query or an Attach. */
export class Turn {
  sessionId: string;
  turnId: string;
  /** With STEER a stream may show a turn from its middle on, which turn is not known. */
  started = false;
  private readonly assembler = new EventAssembler();
  private failures = 0;
  private sequence = 0n;
  private resultSeen = false;

  constructor(
    readonly request: TurnRequest,
    private readonly attempts: number,
  ) {
    this.sessionId = request.message.sessionId;
    this.turnId = request.message.turnId;
  }

  /** The event that is complete with this response. */
  take(response: QueryResponse | AttachResponse): TurnEvent | undefined {
    const item = response.item;
    const event = item?.$case === "part" ? this.assembler.take(item.value) : item?.value;
    // A heartbeat has no number.
    if (event === undefined || event.sequence === 0n) return event;
    this.failures = 0;
    this.sequence = event.sequence;
    if (event.kind?.$case === "started") {
      this.started = true;
      this.sessionId = event.kind.value.sessionId;
      this.turnId = event.kind.value.turnId;
    }
    // Behind a result another turn may begin in the same stream.
    this.resultSeen = event.kind?.$case === "result";
    return event;
  }

  /**
   * What to ask for after this error, and after how many milliseconds. Undefined: the turn is over, and all of
   * it was told. Throws the error where it is the caller's to decide.
   */
  again(error: SessionPoolError): { request: TurnRequest; delayMs: number } | undefined {
    if (error instanceof ConnectionLostError && this.resultSeen) {
      if (this.waitsForBackground()) throw error;
      return undefined;
    }
    const request = this.nextRequest(error);
    this.failures += 1;
    if (request === undefined || this.failures > this.attempts) throw error;
    return { request, delayMs: this.delay(error) };
  }

  private nextRequest(error: SessionPoolError): TurnRequest | undefined {
    const { kind, message } = this.request;
    if (!this.started && this.sequence === 0n) {
      const repeatable = kind === "attach" || message.turnId !== "";
      return repeatable && mayBeSentAgain(error) ? this.request : undefined;
    }
    if (!this.started && !(kind === "attach" && this.turnId !== "")) return undefined;
    if (error instanceof ConnectionLostError || runsElsewhere(error)) return this.attach();
    if (FORGOTTEN.has(error.reason)) error.advice = "RETRY_SAME_TURN";
    return undefined;
  }

  /** Goes on behind the last event that was delivered. */
  private attach(): TurnRequest {
    const { kind, message } = this.request;
    const attach = AttachRequest.fromPartial({
      sessionId: this.sessionId,
      turnId: this.turnId,
      fromSequence: this.sequence + 1n,
      payload: message.payload,
      includePartialMessages:
        kind === "query" ? (message.options?.includePartialMessages ?? false) : message.includePartialMessages,
    });
    attach.heartbeatInterval = message.heartbeatInterval;
    return { kind: "attach", message: attach };
  }

  private waitsForBackground(): boolean {
    const { kind, message } = this.request;
    if (kind === "attach") return false;
    if (message.onBackground === BackgroundPolicy.BACKGROUND_POLICY_UNSPECIFIED) return message.sessionId === "";
    return message.onBackground === BackgroundPolicy.BACKGROUND_POLICY_WAIT;
  }

  private delay(error: SessionPoolError): number {
    if (error.retryDelayMs !== undefined) return error.retryDelayMs;
    const delay = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** (this.failures - 1));
    return delay * (1 - JITTER + 2 * JITTER * Math.random());
  }
}

/** Whether a request that nothing has followed may be sent again: what it asks for runs once, by its turn id. */
function mayBeSentAgain(error: SessionPoolError): boolean {
  if (error instanceof ConnectionLostError) return true;
  const safe = error.advice === "RETRY" || error.advice === "RETRY_SAME_TURN";
  return safe && error.code === status.UNAVAILABLE;
}
