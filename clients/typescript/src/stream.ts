/** Streams of a call, as asynchronous iterators that cancel it when they are left. */
import type { ClientReadableStream, ServiceError } from "@grpc/grpc-js";
import { status } from "@grpc/grpc-js";

import { CancelledError, errorOf, noDetails } from "./errors";
import type { AttachResponse, QueryResponse, TurnEvent } from "./gen/sessionpool/v1/session_pool";
import type { Turn, TurnRequest } from "./turn";

/**
 * Reads a call message by message. The iterator of a stream of Node.js would drop what has arrived and was not
 * read yet when the call fails; here the error comes behind it.
 */
export class Reader<T> {
  private failed: ServiceError | undefined;
  private ended = false;
  private wake: () => void = () => undefined;

  constructor(private readonly call: ClientReadableStream<T>) {
    call.on("readable", () => this.wake());
    call.on("end", () => {
      this.ended = true;
      this.wake();
    });
    call.on("error", (error: ServiceError) => {
      this.failed = error;
      this.wake();
    });
  }

  /** The next message; undefined at the end. Throws what the call failed with. */
  async next(): Promise<T | undefined> {
    for (;;) {
      const message = this.call.read() as T | null;
      if (message !== null) return message;
      if (this.failed !== undefined) throw this.failed;
      if (this.ended) return this.settled();
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
  }

  /** A call has ended when its status has come, too: the end of its messages may come before an error. */
  private async settled(): Promise<undefined> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    if (this.failed !== undefined) throw this.failed;
    return undefined;
  }

  cancel(): void {
    this.call.cancel();
  }
}

/** The events of a turn. It goes on by itself when the connection is lost; who leaves its loop cancels it. */
export class TurnStream implements AsyncIterableIterator<TurnEvent> {
  private reader: Reader<QueryResponse | AttachResponse>;
  private ended = false;
  private cancelled = false;
  /** Who asks for the next event before the one before it has come waits for that. */
  private last: Promise<unknown> = Promise.resolve();
  private wake: () => void = () => undefined;
  private readonly onAbort = () => this.cancel();

  constructor(
    private readonly open: (
      request: TurnRequest,
      deadline: number | undefined,
    ) => ClientReadableStream<QueryResponse | AttachResponse>,
    private readonly turn: Turn,
    private readonly deadline: number | undefined,
    private readonly signal?: AbortSignal,
  ) {
    this.reader = new Reader(open(turn.request, deadline));
    if (signal?.aborted) this.cancel();
    else signal?.addEventListener("abort", this.onAbort, { once: true });
  }

  /** The session; of one of its own, once it has begun. */
  get sessionId(): string {
    return this.turn.sessionId;
  }

  /** The turn, once it is known. */
  get turnId(): string {
    return this.turn.turnId;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<TurnEvent, undefined>> {
    const next = this.last.then(() => this.step());
    this.last = next.catch(() => undefined);
    return next;
  }

  private async step(): Promise<IteratorResult<TurnEvent, undefined>> {
    while (!this.ended) {
      let response: QueryResponse | AttachResponse | undefined;
      try {
        response = await this.reader.next();
      } catch (raw) {
        await this.recover(raw as ServiceError);
        continue;
      }
      if (response === undefined) {
        this.finish();
        break;
      }
      const event = this.turn.take(response);
      if (event !== undefined) return { done: false, value: event };
    }
    return { done: true, value: undefined };
  }

  /** Cancels the call if it has not ended; a loop that is left calls it. */
  async return(): Promise<IteratorResult<TurnEvent, undefined>> {
    this.finish();
    this.cancel();
    return { done: true, value: undefined };
  }

  /** Cancels the call, also while it tries to connect. Who reads the stream gets a `CancelledError`. */
  cancel(): void {
    this.cancelled = true;
    this.reader.cancel();
    this.wake();
  }

  private async recover(raw: ServiceError): Promise<void> {
    // Who has left the stream is told nothing more.
    if (this.ended) return;
    try {
      const error = errorOf(raw, { started: this.turn.started, cancelled: this.cancelled });
      if (this.cancelled) throw error;
      const following = this.turn.again(error);
      if (following === undefined) {
        this.finish();
        return;
      }
      await this.wait(following.delayMs);
      if (this.ended) return;
      if (this.cancelled) {
        throw new CancelledError(status.CANCELLED, "the call was cancelled", noDetails(), "NO_RETRY");
      }
      // Too late: the call that begins then says so.
      this.reader = new Reader(this.open(following.request, this.deadline));
    } catch (error) {
      this.finish();
      throw error;
    }
  }

  private wait(delayMs: number): Promise<void> {
    const left = this.deadline === undefined ? delayMs : Math.min(delayMs, Math.max(0, this.deadline - Date.now()));
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, left);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  private finish(): void {
    this.ended = true;
    this.signal?.removeEventListener("abort", this.onAbort);
  }
}
