/** The client: a connection, and a method for each rpc. */
import { once } from "node:events";

import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import {
  type CallOptions as GrpcCallOptions,
  Client as GrpcClient,
  type ClientDuplexStream,
  type ClientReadableStream,
  type Metadata,
  type MethodDefinition,
  type ServiceError,
} from "@grpc/grpc-js";

import {
  callMetadata,
  channelCredentials,
  channelOptions,
  checkToken,
  type ClientOptions,
  defaultServiceConfig,
  waitingMethods,
} from "./channel";
import { errorOf } from "./errors";
import * as pb from "./gen/sessionpool/v1/session_pool";
import { Reader, TurnStream } from "./stream";
import { EventAssembler, Turn, type TurnRequest } from "./turn";

const rpcs = pb.SessionPoolServiceService;

/** What a call may have beside its request. */
export interface CallOptions {
  /** Of the whole call, over all of its connections. Default: the service config's. */
  timeoutMs?: number;
  metadata?: Metadata;
  /** Cancels the call. */
  signal?: AbortSignal;
}

/** What health checks answer. */
export type Health = "UNKNOWN" | "SERVING" | "NOT_SERVING" | "SERVICE_UNKNOWN";
const HEALTH: readonly Health[] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/** A method of grpc.health.v1, whose messages have a field each. */
const check: MethodDefinition<string, Health> = {
  path: "/grpc.health.v1.Health/Check",
  requestStream: false,
  responseStream: false,
  requestSerialize: (service) => Buffer.from(new BinaryWriter().uint32(10).string(service).finish()),
  requestDeserialize: () => "",
  responseSerialize: () => Buffer.alloc(0),
  responseDeserialize: (encoded) => {
    const reader = new BinaryReader(encoded);
    return (reader.len > 0 && reader.tag()[0] === 1 && HEALTH[reader.int32()]) || "UNKNOWN";
  },
};

const deadlineOf = (options: CallOptions) =>
  options.timeoutMs === undefined ? undefined : Date.now() + options.timeoutMs;
const deadlineOption = (deadline: number | undefined): GrpcCallOptions =>
  deadline === undefined ? {} : { deadline };

/** A connection to the service. */
export class Client {
  private readonly grpc: GrpcClient;
  private readonly waiting: Set<string>;

  constructor(
    address: string,
    private readonly options: ClientOptions = {},
  ) {
    checkToken(address, options);
    this.waiting = waitingMethods(options.serviceConfig ?? defaultServiceConfig());
    this.grpc = new GrpcClient(address, channelCredentials(options.tls), channelOptions(options));
  }

  /** Closes the connection once its calls have ended. */
  close(): void {
    this.grpc.close();
  }

  /**
   * Runs one turn and streams its events. It survives a lost connection with `onDisconnect` CONTINUE, and is
   * repeated before it has begun with a `turnId`.
   */
  query(request: pb.DeepPartial<pb.QueryRequest>, options: CallOptions = {}): TurnStream {
    return this.turn({ kind: "query", message: pb.QueryRequest.fromPartial(request) }, options);
  }

  /** Joins a turn that runs or has ended a moment ago. */
  attach(request: pb.DeepPartial<pb.AttachRequest>, options: CallOptions = {}): TurnStream {
    return this.turn({ kind: "attach", message: pb.AttachRequest.fromPartial(request) }, options);
  }

  private turn(request: TurnRequest, options: CallOptions): TurnStream {
    const open = (
      asked: TurnRequest,
      deadline: number | undefined,
    ): ClientReadableStream<pb.QueryResponse | pb.AttachResponse> =>
      asked.kind === "query"
        ? this.stream(rpcs.query, asked.message, asked.message.sessionId, options, deadline)
        : this.stream(rpcs.attach, asked.message, asked.message.sessionId, options, deadline);
    return new TurnStream(open, new Turn(request, this.options.attempts ?? 10), deadlineOf(options), options.signal);
  }

  /**
   * Follows a session over all of its turns, each event whole: items are never of the case `part`. When it
   * breaks off, call again with the last cursor.
   */
  async *watchSession(
    request: pb.DeepPartial<pb.WatchSessionRequest>,
    options: CallOptions = {},
  ): AsyncGenerator<pb.WatchSessionResponse, void, undefined> {
    const message = pb.WatchSessionRequest.fromPartial(request);
    const call = this.stream(rpcs.watchSession, message, message.sessionId, options, deadlineOf(options));
    const assembler = new EventAssembler();
    for await (const item of messages(call, options.signal)) {
      const whole = wholeItem(item, assembler);
      if (whole !== undefined) yield whole;
    }
  }

  /** Offers tools for as long as the loop over what is told goes on. What is said is taken from `requests`. */
  async *serveTools(
    requests: AsyncIterable<pb.DeepPartial<pb.ServeToolsRequest>>,
    options: CallOptions = {},
  ): AsyncGenerator<pb.ServeToolsResponse, void, undefined> {
    const { path, requestSerialize, responseDeserialize } = rpcs.serveTools;
    const metadata = this.metadata(path, "", options);
    const deadline = deadlineOption(deadlineOf(options));
    const call = this.grpc.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, metadata, deadline);
    let failed: unknown;
    const sending = sendAll(call, requests).catch((error: unknown) => {
      failed = error;
      call.cancel();
    });
    try {
      yield* messages(call, options.signal);
    } catch (error) {
      throw failed ?? error;
    } finally {
      // What is sent from now on goes nowhere; the caller's iterator ends by itself.
      void sending;
    }
  }

  /** Answers what the CLI asks. */
  respond(request: pb.DeepPartial<pb.RespondRequest>, options?: CallOptions): Promise<pb.RespondResponse> {
    return this.call(rpcs.respond, pb.RespondRequest.fromPartial(request), request.sessionId, options);
  }

  /** Stops a session's turn. */
  interrupt(request: pb.DeepPartial<pb.InterruptRequest>, options?: CallOptions): Promise<pb.InterruptResponse> {
    return this.call(rpcs.interrupt, pb.InterruptRequest.fromPartial(request), request.sessionId, options);
  }

  /** Stops what works behind a session's turns. */
  stopTask(request: pb.DeepPartial<pb.StopTaskRequest>, options?: CallOptions): Promise<pb.StopTaskResponse> {
    return this.call(rpcs.stopTask, pb.StopTaskRequest.fromPartial(request), request.sessionId, options);
  }

  /** Stops the turns of all sessions. */
  interruptAll(
    request: pb.DeepPartial<pb.InterruptAllRequest> = {},
    options?: CallOptions,
  ): Promise<pb.InterruptAllResponse> {
    return this.call(rpcs.interruptAll, pb.InterruptAllRequest.fromPartial(request), "", options);
  }

  /** The pool's figures. */
  getStats(request: pb.DeepPartial<pb.GetStatsRequest> = {}, options?: CallOptions): Promise<pb.GetStatsResponse> {
    return this.call(rpcs.getStats, pb.GetStatsRequest.fromPartial(request), "", options);
  }

  /** One session. */
  getSession(request: pb.DeepPartial<pb.GetSessionRequest>, options?: CallOptions): Promise<pb.GetSessionResponse> {
    return this.call(rpcs.getSession, pb.GetSessionRequest.fromPartial(request), request.sessionId, options);
  }

  /** A page of sessions. */
  listSessions(
    request: pb.DeepPartial<pb.ListSessionsRequest> = {},
    options?: CallOptions,
  ): Promise<pb.ListSessionsResponse> {
    return this.call(rpcs.listSessions, pb.ListSessionsRequest.fromPartial(request), "", options);
  }

  /** Changes a session. */
  updateSession(
    request: pb.DeepPartial<pb.UpdateSessionRequest>,
    options?: CallOptions,
  ): Promise<pb.UpdateSessionResponse> {
    return this.call(rpcs.updateSession, pb.UpdateSessionRequest.fromPartial(request), request.sessionId, options);
  }

  /** Ends a session. */
  closeSession(
    request: pb.DeepPartial<pb.CloseSessionRequest>,
    options?: CallOptions,
  ): Promise<pb.CloseSessionResponse> {
    return this.call(rpcs.closeSession, pb.CloseSessionRequest.fromPartial(request), request.sessionId, options);
  }

  /** What the service says of itself. Needs no credentials. */
  health(service = "", options: CallOptions = {}): Promise<Health> {
    return this.call(check, service, "", { timeoutMs: 10_000, ...options });
  }

  private stream<Request, Response>(
    method: MethodDefinition<Request, Response>,
    request: Request,
    sessionId: string,
    options: CallOptions,
    deadline: number | undefined,
  ): ClientReadableStream<Response> {
    const { path, requestSerialize, responseDeserialize } = method;
    const metadata = this.metadata(path, sessionId, options);
    const more = deadlineOption(deadline);
    return this.grpc.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, metadata, more);
  }

  private call<Request, Response>(
    method: MethodDefinition<Request, Response>,
    request: Request,
    sessionId = "",
    options: CallOptions = {},
  ): Promise<Response> {
    const { path, requestSerialize, responseDeserialize } = method;
    const metadata = this.metadata(path, sessionId, options);
    const more = deadlineOption(deadlineOf(options));
    return new Promise((resolve, reject) => {
      const { signal } = options;
      const cancel = () => call.cancel();
      const done = (error: ServiceError | null, response?: Response) => {
        signal?.removeEventListener("abort", cancel);
        if (error !== null) reject(errorOf(error, { cancelled: signal?.aborted ?? false }));
        else resolve(response as Response);
      };
      const call = this.grpc.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        metadata,
        more,
        done,
      );
      if (signal?.aborted) cancel();
      else signal?.addEventListener("abort", cancel, { once: true });
    });
  }

  private metadata(path: string, sessionId: string, options: CallOptions): Metadata {
    const waits = this.waiting.has(path) || path === check.path;
    return callMetadata(this.options.token, sessionId, options.metadata, waits);
  }
}

/** The messages of a call, which is cancelled when the loop over them is left, or by the signal. */
async function* messages<T>(
  call: ClientReadableStream<T>,
  signal: AbortSignal | undefined,
): AsyncGenerator<T, void, undefined> {
  const cancel = () => call.cancel();
  const reader = new Reader(call);
  if (signal?.aborted) cancel();
  else signal?.addEventListener("abort", cancel, { once: true });
  try {
    for (let message = await reader.next(); message !== undefined; message = await reader.next()) yield message;
  } catch (raw) {
    throw errorOf(raw as ServiceError, { cancelled: signal?.aborted ?? false });
  } finally {
    signal?.removeEventListener("abort", cancel);
    call.cancel();
  }
}

/** Sends all of these, as fast as they are taken. */
async function sendAll(
  call: ClientDuplexStream<pb.ServeToolsRequest, pb.ServeToolsResponse>,
  requests: AsyncIterable<pb.DeepPartial<pb.ServeToolsRequest>>,
): Promise<void> {
  for await (const request of requests) {
    if (call.destroyed || call.writableEnded) return;
    if (!call.write(pb.ServeToolsRequest.fromPartial(request))) await once(call, "drain");
  }
  call.end();
}

/** The item; of one in parts the whole, with the last of them. */
function wholeItem(item: pb.WatchSessionResponse, assembler: EventAssembler): pb.WatchSessionResponse | undefined {
  if (item.item?.$case !== "part") return item;
  const { turnId, part, cursor } = item.item.value;
  const event = part === undefined ? undefined : assembler.take(part);
  return event && { item: { $case: "event", value: { turnId, event, cursor } }, cursor: item.cursor };
}
