"""What the driver programs in Python share: they do what lines on standard input say, each a JSON object,
and answer with a line each. docs/benchmarks.md has the table of commands; benches/contenders/protocol.rs is
the same in Rust.

A driver subclasses nothing: it gives `serve` an object with the methods of Peer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

# Whether the CLI is a real one.
REAL = "ANTHROPIC_BASE_URL" in os.environ
COMMANDS = ["open", "turns", "hang", "interrupt", "storm", "close", "hibernate", "stall", "resume"]
Answer = dict[str, Any]


class Peer(Protocol):
    """What is measured."""

    async def connect(self, session: str, options: dict[str, Any]) -> None:
        """Makes a session; `options` has `partial`, `model` and `resume`, the conversation to go on with."""

    def turn(self, session: str, prompt: str) -> AsyncIterator[Any]:
        """The messages of a turn, the last of which is its result."""

    async def interrupt(self, session: str) -> None:
        """Stops the session's turn."""

    async def close(self, session: str) -> None:
        """Ends the session's process."""

    def conversation(self, session: str) -> str:
        """The id that the CLI knows the session's conversation by."""


class Driver:
    """Carries commands out."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.hanging: dict[str, AsyncIterator[Any]] = {}
        self.hibernated: dict[str, str] = {}
        self.stalled: AsyncIterator[Any] | None = None

    async def carry_out(self, command: dict[str, Any]) -> Answer:
        if command["do"] not in COMMANDS:
            raise ValueError(f"cannot {command['do']}")
        method: Callable[[dict[str, Any]], Awaitable[Answer]] = getattr(self, command["do"])
        began = time.perf_counter()
        answer = await method(command)
        return {"seconds": time.perf_counter() - began} | answer

    async def open(self, command: dict[str, Any]) -> Answer:
        options = {"partial": command.get("partial", False), "model": command.get("model")}

        async def opened(session: str) -> list[dict[str, Any]]:
            began = time.perf_counter()
            await self.peer.connect(session, options)
            return [await self.one(session, command["prompt"], began)]

        return told(await asyncio.gather(*map(opened, command["sessions"])))

    async def turns(self, command: dict[str, Any]) -> Answer:
        async def run(session: str) -> list[dict[str, Any]]:
            turns = []
            for _ in range(command["count"]):
                began = time.perf_counter()
                if conversation := self.hibernated.pop(session, None):
                    await self.peer.connect(session, {"resume": conversation})
                turns.append(await self.one(session, command["prompt"], began))
            return turns

        return told(await asyncio.gather(*map(run, command["sessions"])))

    async def one(self, session: str, prompt: str, began: float) -> dict[str, Any]:
        first, messages = 0.0, 0
        async for _ in self.peer.turn(session, prompt):
            if not messages:
                first = time.perf_counter() - began
            messages += 1
        if not messages:
            raise ValueError("the turn has no messages")
        return {"first": first, "whole": time.perf_counter() - began, "messages": messages}

    async def hang(self, command: dict[str, Any]) -> Answer:
        for session in command["sessions"]:
            messages = self.peer.turn(session, command["prompt"])
            # What it says before it hangs; a real one says that it has begun, and then writes.
            while "Assistant" not in type(await anext(messages)).__name__ and not REAL:
                pass
            self.hanging[session] = messages
        return {}

    async def interrupt(self, command: dict[str, Any]) -> Answer:
        began = time.perf_counter()

        async def stop(session: str) -> list[dict[str, Any]]:
            await self.peer.interrupt(session)
            return [{"first": 0.0, "whole": time.perf_counter() - began, "messages": 0}]

        answer = told(await asyncio.gather(*map(stop, command["sessions"])))
        answer["seconds"] = time.perf_counter() - began
        for session in command["sessions"]:
            async for _ in self.hanging.pop(session):
                pass
        return answer

    async def storm(self, command: dict[str, Any]) -> Answer:
        began, worst = time.perf_counter(), 0.0
        starts = asyncio.create_task(self.open(command | {"prompt": "hi"}))
        while time.perf_counter() - began < 0.9:
            turn = await self.one(command["warm"], "hi", time.perf_counter())
            worst = max(worst, turn["whole"])
        await starts
        return {"worst": worst}

    async def close(self, command: dict[str, Any]) -> Answer:
        for session in command["sessions"]:
            await self.peer.close(session)
        return {}

    async def hibernate(self, command: dict[str, Any]) -> Answer:
        for session in command["sessions"]:
            self.hibernated[session] = self.peer.conversation(session)
            await self.peer.close(session)
        return {}

    async def stall(self, command: dict[str, Any]) -> Answer:
        self.stalled = self.peer.turn(command["sessions"][0], command["prompt"])
        await anext(self.stalled)
        return {}

    async def resume(self, _command: dict[str, Any]) -> Answer:
        if self.stalled is None:
            raise ValueError("nobody stalls")
        messages, stalled, self.stalled = 0, self.stalled, None
        async for _ in stalled:
            messages += 1
        return {"messages": messages}


def told(sessions: list[list[dict[str, Any]]]) -> Answer:
    """The answer to commands that run turns."""
    turns = [turn for session in sessions for turn in session]
    return {
        "first": [turn["first"] for turn in turns],
        "whole": [turn["whole"] for turn in turns],
        "each": [sum(turn["whole"] for turn in session) for session in sessions],
        "messages": sum(turn["messages"] for turn in turns),
    }


async def serve(peer: Peer, version: str, can: list[str] | None = None) -> None:
    """Answers commands until there are none."""
    # What a library prints is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value: Answer) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    say({"version": version, "pid": os.getpid(), "ready": 0.0, "can": can or COMMANDS})
    driver = Driver(peer)
    lines = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        try:
            say(await driver.carry_out(json.loads(line)))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})
