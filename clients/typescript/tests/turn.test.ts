/** What a stream does about errors, and where it goes on, without a service. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { Metadata, type ServiceError, status } from "@grpc/grpc-js";

import { CancelledError, Client, ConnectionLostError, pb, SessionPoolError, TurnInterruptedError } from "../src";
import { adviceOf, errorOf, noDetails, parseDetails } from "../src/errors";
import { Turn, type TurnRequest } from "../src/turn";

/** A google.rpc.Status with an ErrorInfo and, if it has a delay, a RetryInfo. */
function trailers(reason: string, said: Record<string, string>, delayMs: number): Metadata {
  const detail = (type: string, value: Uint8Array) =>
    new BinaryWriter().uint32(10).string(`type.googleapis.com/google.rpc.${type}`).uint32(18).bytes(value).finish();
  const info = new BinaryWriter().uint32(10).string(reason).uint32(18).string("sessionpool.v1");
  for (const [key, value] of Object.entries(said)) {
    info.uint32(26).bytes(new BinaryWriter().uint32(10).string(key).uint32(18).string(value).finish());
  }
  const all = new BinaryWriter().uint32(8).int32(14).uint32(26).bytes(detail("ErrorInfo", info.finish()));
  if (delayMs > 0) {
    const delay = new BinaryWriter().uint32(8).int64(Math.trunc(delayMs / 1000)).uint32(16).int32((delayMs % 1000) * 1e6);
    const retry = new BinaryWriter().uint32(10).bytes(delay.finish()).finish();
    all.uint32(26).bytes(detail("RetryInfo", retry));
  }
  const metadata = new Metadata();
  metadata.add("grpc-status-details-bin", Buffer.from(all.finish()));
  return metadata;
}

function failed(code: status, reason = "", said: Record<string, string> = {}, delayMs = 0, details = ""): ServiceError {
  const metadata = reason === "" ? new Metadata() : trailers(reason, said, delayMs);
  return Object.assign(new Error(details), { code, details, metadata });
}

const lost = () => errorOf(failed(status.UNAVAILABLE));
const query = (message: pb.DeepPartial<pb.QueryRequest>): TurnRequest => ({
  kind: "query",
  message: pb.QueryRequest.fromPartial(message),
});
const plain = { sessionId: "s", prompt: "hello" };

/** A turn that has delivered events of these kinds. */
function turn(request: TurnRequest, kinds: ("started" | "system" | "result" | "heartbeat")[] = [], attempts = 3): Turn {
  const state = new Turn(request, attempts);
  for (const [index, kind] of kinds.entries()) {
    const value = kind === "started" ? { sessionId: "s", turnId: "turn-1" } : {};
    const sequence = kind === "heartbeat" ? 0n : BigInt(index + 1);
    const event = { sequence, kind: { $case: kind, value } } as pb.DeepPartial<pb.TurnEvent>;
    state.take(pb.QueryResponse.fromPartial({ item: { $case: "event", value: event } }));
  }
  return state;
}

describe("lost connections", () => {
  test("it goes on behind the last event that was delivered", () => {
    const request = query({
      ...plain,
      payload: pb.Payload.PAYLOAD_BOTH,
      heartbeatInterval: { seconds: 20n },
      options: { includePartialMessages: true },
    });
    const following = turn(request, ["started", "system", "system"]).again(lost());
    assert.deepEqual(following?.request, {
      kind: "attach",
      message: pb.AttachRequest.fromPartial({
        sessionId: "s",
        turnId: "turn-1",
        fromSequence: 4n,
        payload: pb.Payload.PAYLOAD_BOTH,
        includePartialMessages: true,
        heartbeatInterval: { seconds: 20n },
      }),
    });
  });

  test("a query is sent again before it began only with a turn id", () => {
    assert.throws(() => turn(query(plain)).again(lost()), ConnectionLostError);
    assert.throws(() => turn(query(plain), ["heartbeat"]).again(lost()), ConnectionLostError);
    const named = query({ ...plain, turnId: "t" });
    assert.equal(turn(named, ["heartbeat"]).again(lost())?.request, named);
  });

  test("behind the result nothing is missing, unless one waits for work in the background", () => {
    assert.equal(turn(query(plain), ["started", "result"]).again(lost()), undefined);
    const waits = { ...plain, onBackground: pb.BackgroundPolicy.BACKGROUND_POLICY_WAIT };
    for (const request of [waits, { prompt: "hello" }]) {
      assert.throws(() => turn(query(request), ["started", "result"]).again(lost()), ConnectionLostError);
    }
  });

  test("it gives up after so many attempts", () => {
    const state = turn(query(plain), ["started"], 2);
    state.again(lost());
    state.again(lost());
    assert.throws(() => state.again(lost()), ConnectionLostError);
  });

  test("a turn that is forgotten is the caller's to ask for again", () => {
    const error = errorOf(failed(status.NOT_FOUND, "TURN_NOT_FOUND"), { started: true });
    assert.throws(
      () => turn(query(plain), ["started"]).again(error),
      (thrown) => thrown instanceof SessionPoolError && thrown.advice === "RETRY_SAME_TURN",
    );
  });

  test("a turn at another node is attached to, and one that was stopped is not", () => {
    for (const reason of ["SESSION_MOVED", "SHUTTING_DOWN"]) {
      const elsewhere = errorOf(failed(status.UNAVAILABLE, reason, {}, 1070), { started: true });
      const following = turn(query(plain), ["started"]).again(elsewhere);
      assert.equal(following?.request.kind, "attach");
      assert.equal(following?.delayMs, 1070);
      const stopped = errorOf(failed(status.UNAVAILABLE, reason, { tool_use_seen: "false" }), { started: true });
      assert.throws(() => turn(query(plain), ["started"]).again(stopped), SessionPoolError);
    }
  });
});

describe("errors", () => {
  test("advices", () => {
    for (const [reason, toolUseSeen, started, advice] of [
      ["QUEUE_FULL", undefined, false, "RETRY"],
      ["SHUTTING_DOWN", undefined, false, "RETRY"],
      ["SHUTTING_DOWN", undefined, true, "RETRY_SAME_TURN"],
      ["SHUTTING_DOWN", "true", true, "NO_RETRY"],
      ["SESSION_MOVED", undefined, false, "RETRY_SAME_TURN"],
      ["SESSION_MOVED", "false", true, "RETRY"],
      ["CLI_EXITED", "false", true, "RETRY"],
      ["CLI_EXITED", undefined, true, "NO_RETRY"],
      ["LISTENER_TOO_SLOW", undefined, true, "ATTACH"],
      ["A_REASON_OF_A_NEWER_SERVICE", undefined, false, "NO_RETRY"],
    ] as const) {
      const metadata: Record<string, string> = toolUseSeen === undefined ? {} : { tool_use_seen: toolUseSeen };
      assert.equal(adviceOf({ ...noDetails(), reason, metadata }, started), advice, reason);
    }
  });

  test("a call that its caller has cancelled is no lost connection", () => {
    assert.ok(lost() instanceof ConnectionLostError);
    const cancelled = errorOf(failed(status.CANCELLED), { cancelled: true });
    assert.ok(cancelled instanceof CancelledError);
    assert.ok(errorOf(failed(status.CANCELLED, "TURN_INTERRUPTED")) instanceof TurnInterruptedError);
  });

  test("details that cannot be read say nothing", () => {
    assert.deepEqual(parseDetails(Buffer.from([255, 255, 255])), noDetails());
  });
});

describe("credentials", () => {
  test("a token goes nowhere in plain text", () => {
    for (const address of ["pool.example:50051", "10.0.0.1:50051", "dns:///pool.example:50051", "[2001:db8::1]:1"]) {
      assert.throws(() => new Client(address, { token: "a token" }), TypeError);
    }
    for (const address of ["localhost:1", "127.0.0.1:1", "[::1]:1", "dns:///localhost:1"]) {
      new Client(address, { token: "a token" }).close();
    }
    new Client("pool.example:50051", { token: "a token", tls: {} }).close();
  });

  test("a certificate needs its key", () => {
    assert.throws(() => new Client("pool.example:50051", { tls: { cert: Buffer.from("") } }), TypeError);
  });
});
