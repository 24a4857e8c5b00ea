// The driver program of the TypeScript Agent SDK: a query with streaming input for each session. What driver.py has
// for those in Python, it has itself.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// Where the SDK was installed is nowhere near this file.
const require = createRequire(`${process.env.BENCH_PACKAGES}/package.json`);
const entry = require.resolve("@anthropic-ai/claude-agent-sdk");
const { query } = await import(entry);
const { version } = JSON.parse(readFileSync(new URL("package.json", `file://${entry}`), "utf8"));

const COMMANDS = ["open", "turns", "hang", "interrupt", "storm", "close", "hibernate", "stall", "resume"];
const isReal = "ANTHROPIC_BASE_URL" in process.env;
const sessions = new Map();
const hanging = new Map();
const hibernated = new Map();
let stalled;

const now = () => performance.now() / 1000;

// Prompts as the SDK takes them: an iterable that goes on for as long as the session.
class Prompts {
  #waiting = [];
  #wake;
  #closed = false;

  push(text) {
    this.#waiting.push({ type: "user", message: { role: "user", content: text }, parent_tool_use_id: null, session_id: "" });
    this.#wake?.();
  }

  close() {
    this.#closed = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#waiting.length > 0) yield this.#waiting.shift();
      if (this.#closed) return;
      await new Promise((resolve) => (this.#wake = resolve));
    }
  }
}

function connect(name, options) {
  const prompts = new Prompts();
  const running = query({
    prompt: prompts,
    options: {
      pathToClaudeCodeExecutable: process.env.BENCH_CLI,
      cwd: process.env.BENCH_FOLDER,
      includePartialMessages: options.partial ?? false,
      model: options.model ?? undefined,
      resume: options.resume,
      systemPrompt: "You are brief.",
    },
  });
  sessions.set(name, { prompts, running, messages: running[Symbol.asyncIterator](), conversation: "" });
}

// The messages of a turn. The query goes on behind them.
async function* turn(name, prompt) {
  const session = sessions.get(name);
  session.prompts.push(prompt);
  for (;;) {
    const { value, done } = await session.messages.next();
    if (done) throw new Error("the query ended");
    yield value;
    if (value.type === "result") {
      session.conversation = value.session_id;
      return;
    }
  }
}

async function one(name, prompt, began) {
  let first = 0;
  let messages = 0;
  for await (const _ of turn(name, prompt)) {
    if (messages === 0) first = now() - began;
    messages += 1;
  }
  return { first, whole: now() - began, messages };
}

function told(turns) {
  const all = turns.flat();
  return {
    first: all.map((turn) => turn.first),
    whole: all.map((turn) => turn.whole),
    each: turns.map((of) => of.reduce((sum, turn) => sum + turn.whole, 0)),
    messages: all.reduce((sum, turn) => sum + turn.messages, 0),
  };
}

const carryOut = {
  async open(command) {
    return told(
      await Promise.all(
        command.sessions.map(async (name) => {
          const began = now();
          connect(name, command);
          return [await one(name, command.prompt, began)];
        }),
      ),
    );
  },
  async turns(command) {
    return told(
      await Promise.all(
        command.sessions.map(async (name) => {
          const turns = [];
          for (let number = 0; number < command.count; number += 1) {
            const began = now();
            const resume = hibernated.get(name);
            if (resume) {
              hibernated.delete(name);
              connect(name, { resume });
            }
            turns.push(await one(name, command.prompt, began));
          }
          return turns;
        }),
      ),
    );
  },
  async hang(command) {
    for (const name of command.sessions) {
      const messages = turn(name, command.prompt);
      // What it says before it hangs; a real one says that it has begun, and then writes.
      while ((await messages.next()).value?.type !== "assistant" && !isReal);
      hanging.set(name, messages);
    }
    return {};
  },
  async interrupt(command) {
    const began = now();
    const stop = async (name) => {
      await sessions.get(name).running.interrupt();
      return [{ first: 0, whole: now() - began, messages: 0 }];
    };
    const answer = told(await Promise.all(command.sessions.map(stop)));
    answer.seconds = now() - began;
    for (const name of command.sessions) {
      for await (const _ of hanging.get(name));
      hanging.delete(name);
    }
    return answer;
  },
  async storm(command) {
    const began = now();
    let worst = 0;
    const starts = carryOut.open({ ...command, prompt: "hi" });
    while (now() - began < 0.9) worst = Math.max(worst, (await one(command.warm, "hi", now())).whole);
    await starts;
    return { worst };
  },
  async close(command) {
    for (const name of command.sessions) {
      const session = sessions.get(name);
      session.prompts.close();
      session.running.close?.();
      sessions.delete(name);
    }
    return {};
  },
  async hibernate(command) {
    for (const name of command.sessions) hibernated.set(name, sessions.get(name).conversation);
    return carryOut.close(command);
  },
  async stall(command) {
    stalled = turn(command.sessions[0], command.prompt);
    await stalled.next();
    return {};
  },
  async resume() {
    let messages = 0;
    for await (const _ of stalled) messages += 1;
    return { messages };
  },
};

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

say({ version, pid: process.pid, ready: 0, can: COMMANDS });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  const began = now();
  try {
    if (!COMMANDS.includes(command.do)) throw new Error(`cannot ${command.do}`);
    const answer = await carryOut[command.do](command);
    say({ seconds: now() - began, ...answer });
  } catch (error) {
    say({ error: String(error) });
  }
}
process.exit(0);
