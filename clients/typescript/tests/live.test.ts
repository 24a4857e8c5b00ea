/** What only a live service shows: it is killed in mid-stream, readers are slow, leave early, or are many. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import {
  CancelledError,
  Client,
  DeadlineExceededError,
  newTurnId,
  NotFoundError,
  pb,
  SessionPoolError,
  text,
  type TurnEvent,
} from "../src";
import { rest, untilOne } from "./support";

const timeoutMs = 30_000;
const HANG = "#!fake\nsay one\nhang";
const CONTINUE = pb.DisconnectPolicy.DISCONNECT_POLICY_CONTINUE;

const given = (name: string): string => process.env[name] ?? assert.fail(`${name} is not set`);
const newSession = () => `${given("CONFORMANCE_RUN")}-${randomUUID()}`;
const tellProxy = (what: string) => fetch(`${given("CONFORMANCE_PROXY_CONTROL")}/${what}`, { method: "POST" });

const plain = new Client(given("CONFORMANCE_PLAIN"));
const throughProxy = new Client(given("CONFORMANCE_PROXY"));
after(() => {
  plain.close();
  throughProxy.close();
});

/** A service on the scripted CLI that can be killed and started again at its address. */
class Scripted {
  address = "127.0.0.1:0";
  private readonly folder = mkdtempSync(join(tmpdir(), "session-pool-typescript-client-"));
  private process: ChildProcess | undefined;

  async start(): Promise<void> {
    const programs = given("SESSION_POOL_PROGRAMS");
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("SESSION_POOL_"));
    const env = {
      ...Object.fromEntries(inherited),
      SESSION_POOL__SERVER__LISTEN: this.address,
      SESSION_POOL__CLI__PATH: join(programs, "fake-claude"),
      SESSION_POOL__CLI__SANDBOX: "process-tree",
      SESSION_POOL__STATE_DIR: join(this.folder, "state"),
      SESSION_POOL__LOG__FORMAT: "json",
    };
    const started = spawn(join(programs, "session-pool"), ["serve"], { env, stdio: ["ignore", "ignore", "pipe"] });
    this.process = started;
    for await (const line of createInterface({ input: started.stderr })) {
      const { message, address } = JSON.parse(line);
      if (message === "listening") this.address = address;
      if (message === "ready") break;
    }
    started.stderr.resume();
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    if (this.process === undefined || this.process.exitCode !== null) return;
    this.process.kill(signal);
    await once(this.process, "exit");
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function resultOf(events: TurnEvent[]): string {
  const kind = events.at(-1)?.kind;
  return kind?.$case === "result" ? kind.value.result : assert.fail(`it ends with ${kind?.$case}`);
}

function withoutGaps(events: TurnEvent[]): void {
  assert.deepEqual(
    events.map((event) => event.sequence),
    events.map((_, index) => BigInt(index + 1)),
  );
}

/** Waits until the session runs no turn. */
async function turnOver(session: string): Promise<void> {
  while ((await plain.getSession({ sessionId: session })).session?.runningTurnId !== "") await sleep(20);
}

async function usableAtOnce(session: string): Promise<void> {
  const began = Date.now();
  assert.equal(resultOf(await rest(plain.query({ sessionId: session, prompt: "hello" }, { timeoutMs }))), "echo: hello");
  assert.ok(Date.now() - began < 15_000, "the session was busy");
}

describe("connections", () => {
  test("a service that is killed and started again has forgotten the turn", async () => {
    const service = new Scripted();
    await service.start();
    const pool = new Client(service.address);
    try {
      const request = { sessionId: "s", prompt: HANG, turnId: newTurnId(), onDisconnect: CONTINUE };
      const stream = pool.query(request, { timeoutMs });
      await untilOne(stream);
      await service.end("SIGKILL");
      await service.start();
      await assert.rejects(
        rest(stream),
        (error) => error instanceof NotFoundError && error.advice === "RETRY_SAME_TURN",
      );
      // The caller's to decide: here nothing of it mattered.
      assert.equal(resultOf(await rest(pool.query({ ...request, prompt: "hello" }, { timeoutMs }))), "echo: hello");
      await service.end("SIGKILL");
      await service.start();
      const again = await rest(pool.query({ ...request, prompt: "hello" }, { timeoutMs }));
      assert.deepEqual(
        again.map((event) => event.kind?.$case),
        ["started", "result"],
      );
    } finally {
      pool.close();
      await service.end("SIGTERM");
      service.remove();
    }
  });

  test("many cuts", async () => {
    const prompt = `#!fake\n${"say one\nsleep 100\n".repeat(6)}`;
    const seen: TurnEvent[] = [];
    for await (const event of throughProxy.query(
      { sessionId: newSession(), prompt, onDisconnect: CONTINUE },
      { timeoutMs },
    )) {
      seen.push(event);
      if (text(event) !== "") await tellProxy("cut");
    }
    withoutGaps(seen);
    assert.deepEqual(seen.map(text).filter(Boolean), Array(6).fill("one"));
  });

  test("a connection that is silently gone", async () => {
    const channelOptions = { "grpc.keepalive_time_ms": 500, "grpc.keepalive_timeout_ms": 500 };
    const pool = new Client(given("CONFORMANCE_PROXY"), { channelOptions });
    const prompt = "#!fake\nsay one\nsleep 500\nsay two";
    const stream = pool.query({ sessionId: newSession(), prompt, onDisconnect: CONTINUE }, { timeoutMs });
    const seen = await untilOne(stream);
    await tellProxy("silence");
    seen.push(...(await rest(stream)));
    pool.close();
    // The other client's connection is silent, too.
    await tellProxy("cut");
    assert.deepEqual(seen.map(text).filter(Boolean), ["one", "two"]);
  });

  test("a deadline is of all connections together", async () => {
    const session = newSession();
    // On a process that is there the text comes in time.
    await usableAtOnce(session);
    const began = Date.now();
    const request = { sessionId: session, prompt: HANG, onDisconnect: CONTINUE };
    const stream = throughProxy.query(request, { timeoutMs: 3000 });
    await untilOne(stream);
    await tellProxy("refuse");
    await tellProxy("cut");
    await assert.rejects(rest(stream), DeadlineExceededError);
    assert.ok(Date.now() - began < 5500);
    await tellProxy("accept");
    await plain.interrupt({ sessionId: session });
  });

  test("a stream is left while it connects", async () => {
    const session = newSession();
    const stream = throughProxy.query({ sessionId: session, prompt: HANG, onDisconnect: CONTINUE }, { timeoutMs });
    await untilOne(stream);
    await tellProxy("refuse");
    await tellProxy("cut");
    const next = stream.next();
    await stream.return();
    for (const result of [await next, await stream.next()]) assert.deepEqual(result, { done: true, value: undefined });
    await tellProxy("accept");
    await plain.interrupt({ sessionId: session });
  });
});

describe("readers", () => {
  test("a slow one misses nothing", async () => {
    const session = newSession();
    const request = { sessionId: session, prompt: "#!fake\nsay one\nframes 1500 4000", onDisconnect: CONTINUE };
    const stream = plain.query(request, { timeoutMs });
    const seen = await untilOne(stream);
    // All of it is said before more is read.
    await turnOver(session);
    seen.push(...(await rest(stream)));
    withoutGaps(seen);
    assert.ok(seen.length > 1500);
  });

  test("an error comes behind the events before it", async () => {
    const session = newSession();
    const stream = plain.query({ sessionId: session, prompt: "#!fake\nsay one\nframes 8 1000\nexit 3" });
    const seen = await untilOne(stream);
    // Nobody reads while the last messages and the status arrive, all of which grpc-js holds then.
    await turnOver(session);
    await plain.health();
    const error = await (async () => {
      for await (const event of stream) seen.push(event);
    })().catch((thrown: unknown) => thrown);
    assert.ok(error instanceof SessionPoolError && error.reason === "CLI_EXITED", String(error));
    assert.equal(error.advice, "RETRY");
    assert.ok(seen.length > 8, `${seen.length} events`);
  });

  test("events that are asked for at once come in order", async () => {
    const stream = plain.query({ sessionId: newSession(), prompt: "hello" }, { timeoutMs });
    const asked = await Promise.all(Array.from({ length: 20 }, () => stream.next()));
    const events = asked.flatMap(({ done, value }) => (done ? [] : [value]));
    withoutGaps(events);
    assert.equal(resultOf(events), "echo: hello");
  });

  test("a stream that an error leaves is cancelled", async () => {
    const session = newSession();
    await assert.rejects(async () => {
      for await (const event of plain.query({ sessionId: session, prompt: HANG }, { timeoutMs })) {
        if (text(event) === "one") throw new RangeError("enough");
      }
    }, RangeError);
    await usableAtOnce(session);
  });

  test("a signal cancels", async () => {
    const session = newSession();
    const abort = new AbortController();
    const stream = plain.query({ sessionId: session, prompt: HANG }, { timeoutMs, signal: abort.signal });
    await untilOne(stream);
    const next = stream.next();
    abort.abort();
    await assert.rejects(next, CancelledError);
    await usableAtOnce(session);
    await assert.rejects(plain.getStats({}, { signal: abort.signal }), CancelledError);
  });

  test("many on one connection", async () => {
    const session = newSession();
    const whole = await rest(plain.query({ sessionId: session, prompt: "hello" }, { timeoutMs }));
    const all = Array.from({ length: 200 }, () => rest(plain.attach({ sessionId: session }, { timeoutMs })));
    for (const events of await Promise.all(all)) assert.deepEqual(events, whole);
  });

  test("tools are offered and called", async () => {
    const session = newSession();
    const server = `shop-${randomUUID().slice(0, 8)}`;
    const results: pb.DeepPartial<pb.ServeToolsRequest>[] = [];
    let wake = () => undefined as void;
    async function* said(): AsyncGenerator<pb.DeepPartial<pb.ServeToolsRequest>> {
      const tools = [{ name: "price", description: "What a thing costs." }];
      const register = { server, tools, sessions: { ids: [session], all: false } };
      yield { message: { $case: "register", value: register } };
      for (;;) {
        for (const result of results.splice(0)) yield result;
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
    const prompt = `#!fake\nmcp ${server} price {"item":"tea"}\nsay done`;
    let asked: Promise<TurnEvent[]> | undefined;
    let called = "";
    for await (const { message } of plain.serveTools(said(), { timeoutMs })) {
      if (message?.$case === "registered") {
        const options = { toolServers: [server] };
        asked = rest(plain.query({ sessionId: session, prompt, options }, { timeoutMs }));
      } else if (message?.$case === "call") {
        called = message.value.argumentsJson;
        const content = [{ block: { $case: "text" as const, value: "three" } }];
        results.push({ message: { $case: "result", value: { callId: message.value.callId, content } } });
        wake();
        // Offered until the turn has ended.
        await asked;
        break;
      }
    }
    assert.equal(called, '{"item":"tea"}');
    const events = (await asked) ?? [];
    const answers = events.flatMap(({ kind }) => (kind?.$case === "user" ? kind.value.content : []));
    assert.ok(answers.some(({ block }) => block?.$case === "toolResult" && /three/.test(block.value.text + block.value.contentJson)));
    assert.equal(resultOf(events), "done");
  });

  test("a session that is followed has whole events", async () => {
    const session = newSession();
    await rest(plain.query({ sessionId: session, prompt: "hello" }, { timeoutMs }));
    let large = 0;
    for await (const { item } of plain.watchSession({ sessionId: session }, { timeoutMs })) {
      assert.notEqual(item?.$case, "part");
      if (item?.$case === "phase" && item.value === pb.WatchPhase.WATCH_PHASE_LIVE) {
        void rest(plain.query({ sessionId: session, prompt: "#!fake\nbig 5000000\nsay end" }, { timeoutMs }));
      }
      const event = item?.$case === "event" ? item.value.event : undefined;
      if (event !== undefined) large = Math.max(large, text(event).length);
      if (event?.kind?.$case === "result") break;
    }
    assert.ok(large > 4_900_000);
  });
});
