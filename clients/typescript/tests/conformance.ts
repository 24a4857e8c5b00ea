/** The conformance program of clients/CONFORMANCE.md. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { Server, ServerCredentials, status } from "@grpc/grpc-js";

import {
  CancelledError,
  Client,
  type ClientOptions,
  DeadlineExceededError,
  defaultServiceConfig,
  InvalidArgumentError,
  newTurnId,
  NotFoundError,
  pb,
  ResourceExhaustedError,
  SessionPoolError,
  text,
  type TurnEvent,
  TurnInterruptedError,
  UnauthenticatedError,
} from "../src";
import { rest, untilOne } from "./support";

const LIMIT_MS = 30_000;
const PROMPT_STOP_MS = 5000;
const GRUESSE = 'Grüße, 世界 🦀 e\u0301 \\ "';
const HANG = "#!fake\nsay one\nhang";
const NUMBERS =
  '#!fake\nraw {"type":"assistant","message":{"id":"msg_1","type":"message","role":"assistant","model":"m",' +
  '"content":[{"type":"tool_use","id":"toolu_1","name":"T","input":{"n":12345678901234567890,"f":0.1}}],' +
  '"usage":{"input_tokens":9007199254740993,"output_tokens":18446744073709551615}},"parent_tool_use_id":null,' +
  '"session_id":"00000000-0000-4000-8000-000000000000","uuid":"00000000-0000-4000-8000-000000000001"}';
const LARGE = 4 * 1024 * 1024;
const CONTINUE = pb.DisconnectPolicy.DISCONNECT_POLICY_CONTINUE;
const timeoutMs = LIMIT_MS;

const given = (name: string): string => {
  const value = process.env[`CONFORMANCE_${name}`];
  if (value === undefined) throw new Error(`CONFORMANCE_${name} is not set`);
  return value;
};
const newSession = () => `${given("RUN")}-${randomUUID()}`;
const tellProxy = async (what: string) => {
  const answer = await fetch(`${given("PROXY_CONTROL")}/${what}`, { method: "POST" });
  assert.equal(answer.status, 204);
};

/** Runs something with a client, which is closed then. */
async function withClient<T>(address: string, run: (pool: Client) => Promise<T>, options: ClientOptions = {}) {
  const pool = new Client(address, options);
  try {
    return await run(pool);
  } finally {
    pool.close();
  }
}

const withPlain = (run: (pool: Client) => Promise<void>) => withClient(given("PLAIN"), run);
const throughProxy = (run: (pool: Client) => Promise<void>) => withClient(given("PROXY"), run);

function resultOf(event: TurnEvent | undefined): pb.TurnResult {
  if (event?.kind?.$case !== "result") throw new Error(`not a result: ${event?.kind?.$case}`);
  return event.kind.value;
}

function startedOf(event: TurnEvent | undefined): pb.TurnStarted {
  if (event?.kind?.$case !== "started") throw new Error(`not the start: ${event?.kind?.$case}`);
  return event.kind.value;
}

/** Checks what holds for every turn that ended well; returns its result. */
function whole(events: TurnEvent[], session: string): pb.TurnResult {
  assert.deepEqual(
    events.map((event) => event.sequence),
    events.map((_, index) => BigInt(index + 1)),
  );
  assert.equal(startedOf(events[0]).sessionId, session);
  const result = resultOf(events.at(-1));
  assert.equal(result.isError, false);
  return result;
}

async function turn(pool: Client, prompt: string, session = newSession(), turnId = ""): Promise<TurnEvent[]> {
  const events = await rest(pool.query({ sessionId: session, prompt, turnId }, { timeoutMs }));
  whole(events, session);
  return events;
}

async function failing(call: Promise<unknown>): Promise<SessionPoolError> {
  try {
    await call;
  } catch (error) {
    assert.ok(error instanceof SessionPoolError, String(error));
    return error;
  }
  throw new Error("no error");
}

async function usableAtOnce(pool: Client, session: string): Promise<void> {
  const began = Date.now();
  const events = await turn(pool, "hello", session);
  assert.equal(resultOf(events.at(-1)).result, "echo: hello");
  assert.ok(Date.now() - began < PROMPT_STOP_MS, "the session was busy");
}

function checkLarge(events: TurnEvent[]): void {
  const large = events.filter((event) => pb.TurnEvent.encode(event).finish().length > LARGE);
  assert.deepEqual(
    large.map((event) => event.kind?.$case),
    ["assistant"],
  );
  assert.ok(text(large[0] as TurnEvent).length > 4_900_000, "the text was cut");
}

async function answersHello(pool: Client): Promise<void> {
  assert.equal(resultOf((await turn(pool, "hello")).at(-1)).result, "echo: hello");
}

async function retryInfo(pool: Client): Promise<void> {
  const session = newSession();
  await untilOne(pool.query({ sessionId: session, prompt: HANG }, { timeoutMs }));
  const waiting = failing(rest(pool.query({ sessionId: session, prompt: "hello" }, { timeoutMs })));
  // Nothing tells a caller that a turn waits but the session itself.
  while ((await pool.getSession({ sessionId: session })).session?.queuedTurns !== 1) await sleep(20);
  const error = await failing(rest(pool.query({ sessionId: session, prompt: "hello" }, { timeoutMs })));
  assert.ok(error instanceof ResourceExhaustedError, String(error));
  assert.deepEqual([error.reason, error.advice], ["QUEUE_FULL", "RETRY"]);
  assert.ok((error.retryDelayMs ?? 0) > 0, "no delay");
  await pool.interrupt({ sessionId: session });
  assert.ok((await waiting) instanceof TurnInterruptedError);
}

async function attach(pool: Client): Promise<void> {
  const session = newSession();
  const prompt = "#!fake\nsay one\nsleep 500\nsay two";
  const stream = pool.query({ sessionId: session, prompt, onDisconnect: CONTINUE }, { timeoutMs });
  const seen = await untilOne(stream);
  await tellProxy("cut");
  seen.push(...(await rest(stream)));
  whole(seen, session);
  assert.deepEqual(seen.map(text).filter(Boolean), ["one", "two"]);
}

async function attachParts(pool: Client): Promise<void> {
  const session = newSession();
  const prompt = "#!fake\nsay one\nsleep 300\nbig 5000000\nsay end";
  const stream = pool.query({ sessionId: session, prompt, onDisconnect: CONTINUE }, { timeoutMs });
  const seen = await untilOne(stream);
  await tellProxy("cut-after/3500000");
  seen.push(...(await rest(stream)));
  whole(seen, session);
  checkLarge(seen);
}

async function retryTurn(pool: Client): Promise<void> {
  const session = newSession();
  const turnId = newTurnId();
  await tellProxy("refuse");
  const first = turn(pool, "hello", session, turnId);
  await sleep(300);
  await tellProxy("accept");
  for (const events of [await first, await turn(pool, "hello", session, turnId)]) {
    assert.equal(startedOf(events[0]).turnId, turnId);
    assert.equal(resultOf(events.at(-1)).result, "echo: hello");
  }
  assert.equal((await pool.getSession({ sessionId: session })).session?.messageCount, 1n);
}

async function cancelReconnecting(pool: Client): Promise<void> {
  const session = newSession();
  const stream = pool.query({ sessionId: session, prompt: HANG, onDisconnect: CONTINUE }, { timeoutMs });
  await untilOne(stream);
  await tellProxy("refuse");
  await tellProxy("cut");
  const ended = failing(rest(stream));
  // Time in which it notices and tries again; shorter is only another moment of the same.
  const early = await Promise.race([ended, sleep(500)]);
  assert.equal(early, undefined, "it has given up");
  const began = Date.now();
  stream.cancel();
  assert.ok((await ended) instanceof CancelledError);
  assert.ok(Date.now() - began < 2000);
  await tellProxy("accept");
  await withPlain(async (second) => void (await second.interrupt({ sessionId: session })));
}

/** What a server sees of the session's id. */
async function sessionId(): Promise<void> {
  const seen: unknown[] = [];
  const server = new Server();
  server.addService(pb.SessionPoolServiceService, {
    query: (call: { metadata: { get(key: string): unknown }; end(): void }) => {
      seen.push(call.metadata.get("session-id"));
      call.end();
    },
  });
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    ),
  );
  try {
    await withClient(`127.0.0.1:${port}`, async (pool) => {
      await rest(pool.query({ sessionId: "demo", prompt: "hello" }, { timeoutMs }));
      await rest(pool.query({ prompt: "hello" }, { timeoutMs }));
    });
  } finally {
    server.forceShutdown();
  }
  assert.deepEqual(seen, [["demo"], []]);
}

const authority = () => readFileSync(given("CA"));

// By their names in the scenario; they run one after the other, since some cut connections.
const STEPS: Record<string, () => Promise<unknown>> = {
  stream: () =>
    withPlain(async (pool) => {
      const events = await turn(pool, "hello");
      assert.equal(resultOf(events.at(-1)).result, "echo: hello");
      assert.equal(events.map(text).join(""), "echo: hello");
    }),
  text: () =>
    withPlain(async (pool) => {
      assert.equal(resultOf((await turn(pool, GRUESSE)).at(-1)).result, `echo: ${GRUESSE}`);
    }),
  numbers: () =>
    withPlain(async (pool) => {
      const message = (await turn(pool, NUMBERS)).find((event) => event.kind?.$case === "assistant")?.kind;
      assert.ok(message?.$case === "assistant", "no message");
      assert.equal(message.value.usage?.inputTokens, 9007199254740993n);
      assert.equal(message.value.usage?.outputTokens, 18446744073709551615n);
      const block = message.value.content[0]?.block;
      assert.ok(block?.$case === "toolUse", "no call of a tool");
      assert.equal(block.value.inputJson, '{"n":12345678901234567890,"f":0.1}');
    }),
  // The result repeats the text, unless another text follows it.
  parts: () => withPlain(async (pool) => checkLarge(await turn(pool, "#!fake\nbig 5000000\nsay end"))),
  cancel: () =>
    withPlain(async (pool) => {
      const session = newSession();
      const stream = pool.query({ sessionId: session, prompt: HANG }, { timeoutMs });
      await untilOne(stream);
      stream.cancel();
      assert.ok((await failing(rest(stream))) instanceof CancelledError);
      await usableAtOnce(pool, session);
    }),
  dropped: () =>
    withPlain(async (pool) => {
      const session = newSession();
      for await (const event of pool.query({ sessionId: session, prompt: HANG }, { timeoutMs })) {
        if (text(event) === "one") break;
      }
      await usableAtOnce(pool, session);
    }),
  deadline: () =>
    withPlain(async (pool) => {
      const began = Date.now();
      const request = { sessionId: newSession(), prompt: "#!fake\nhang" };
      const error = await failing(rest(pool.query(request, { timeoutMs: 1000 })));
      assert.ok(error instanceof DeadlineExceededError, String(error));
      const took = Date.now() - began;
      assert.ok(900 < took && took < 4000, `after ${took} ms`);
    }),
  interrupt: () =>
    withPlain((pool) =>
      withPlain(async (second) => {
        const session = newSession();
        const stream = pool.query({ sessionId: session, prompt: HANG }, { timeoutMs });
        await untilOne(stream);
        const answer = await second.interrupt({ sessionId: session, keepSession: true });
        assert.ok(answer.interrupted && answer.hadActiveTurn);
        assert.equal(answer.outcome, pb.InterruptOutcome.INTERRUPT_OUTCOME_INTERRUPTED);
        try {
          assert.ok(resultOf((await rest(stream)).at(-1)).interrupted, "the result says nothing of it");
        } catch (error) {
          assert.ok(error instanceof TurnInterruptedError, String(error));
          assert.equal(error.reason, "TURN_INTERRUPTED");
        }
      }),
    ),
  "error-info": () =>
    withPlain(async (pool) => {
      const session = newSession();
      const error = await failing(pool.getSession({ sessionId: session }));
      assert.ok(error instanceof NotFoundError, String(error));
      assert.equal(error.code, status.NOT_FOUND);
      assert.deepEqual([error.reason, error.domain], ["SESSION_NOT_FOUND", "sessionpool.v1"]);
      assert.equal(error.metadata["session_id"], session);
      assert.equal(error.advice, "NO_RETRY");
    }),
  "bad-request": () =>
    withPlain(async (pool) => {
      const error = await failing(rest(pool.query({ sessionId: newSession() })));
      assert.ok(error instanceof InvalidArgumentError, String(error));
      assert.equal(error.reason, "INVALID_ARGUMENT");
      assert.ok(error.fields.some((violation) => violation.field === "prompt"));
    }),
  "retry-info": () => withPlain(retryInfo),
  attach: () => throughProxy(attach),
  "attach-parts": () => throughProxy(attachParts),
  "attach-from": () =>
    withPlain(async (pool) => {
      const session = newSession();
      const events = await turn(pool, "hello", session);
      const request = { sessionId: session, turnId: startedOf(events[0]).turnId, fromSequence: 2n };
      assert.deepEqual(await rest(pool.attach(request, { timeoutMs })), events.slice(1));
    }),
  "retry-turn": () => throughProxy(retryTurn),
  "cancel-reconnecting": () => throughProxy(cancelReconnecting),
  concurrent: () =>
    withPlain(async (pool) => {
      const prompts = Array.from({ length: 16 }, (_, number) => `turn ${number}`);
      const turns = await Promise.all(prompts.map((prompt) => turn(pool, prompt)));
      assert.deepEqual(
        turns.map((events) => resultOf(events.at(-1)).result),
        prompts.map((prompt) => `echo: ${prompt}`),
      );
    }),
  health: () =>
    withPlain(async (pool) => {
      assert.equal(await pool.health(), "SERVING");
      assert.equal(await pool.health("sessionpool.v1.SessionPoolService"), "SERVING");
      assert.ok((await failing(pool.health("nobody"))) instanceof NotFoundError);
    }),
  "service-config": async () => {
    const expected = JSON.parse(readFileSync(given("SERVICE_CONFIG"), "utf8"));
    assert.deepEqual(JSON.parse(defaultServiceConfig()), expected);
  },
  "session-id": sessionId,
  "tls-token": () =>
    withClient(given("TLS"), answersHello, { tls: { ca: authority() }, token: () => given("TOKEN") }),
  "tls-wrong-token": () =>
    withClient(
      given("TLS"),
      async (pool) => {
        const error = await failing(pool.listSessions());
        assert.ok(error instanceof UnauthenticatedError, String(error));
        assert.deepEqual([error.reason, error.advice], ["UNAUTHENTICATED", "NO_RETRY"]);
        const told = `${error} ${error.stack}`;
        assert.ok(!told.includes("a-wrong-token") && !told.includes(given("TOKEN")), "a token is told");
      },
      { tls: { ca: authority() }, token: "a-wrong-token" },
    ),
  "mutual-tls": () => {
    const tls = {
      ca: authority(),
      cert: readFileSync(given("CLIENT_CERT")),
      key: readFileSync(given("CLIENT_KEY")),
    };
    return withClient(given("MUTUAL_TLS"), answersHello, { tls });
  },
  "mutual-tls-no-certificate": () =>
    withClient(given("MUTUAL_TLS"), (pool) => failing(pool.listSessions({}, { timeoutMs: 3000 })), {
      tls: { ca: authority() },
    }),
};

/** The version of a package, from where Node.js finds it. */
function versionOf(folder: string): string {
  return String(JSON.parse(readFileSync(join(folder, "package.json"), "utf8")).version);
}

async function main(): Promise<number> {
  const root = join(__dirname, "../..");
  console.log(`version session-pool-client ${versionOf(root)}`);
  for (const name of ["@grpc/grpc-js", "@bufbuild/protobuf"]) {
    console.log(`version ${name} ${versionOf(join(root, "node_modules", name))}`);
  }
  console.log(`version Node.js ${process.versions.node}`);
  let failed = 0;
  for (const [name, step] of Object.entries(STEPS)) {
    const began = Date.now();
    const late = sleep(LIMIT_MS, undefined, { ref: false }).then(() => {
      throw new Error("not done in time");
    });
    try {
      await Promise.race([step(), late]);
      console.log(`ok ${name} (${Date.now() - began} ms)`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}: ${String(error).replaceAll("\n", " ").slice(0, 500)}`);
    }
  }
  return failed === 0 ? 0 : 1;
}

void main().then((code) => process.exit(code));
