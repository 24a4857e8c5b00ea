"""What tests/bench measures, a function for each group of rows.

All contenders take turns within each round of a group; what is told is the median of the rounds, or of all
turns in them, and the quartiles.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_contenders import PEERS, Asked, Contender, Refused, Stage, descendants, runs
from live_service import ROOT, Failure

# What most rows are measured on.
ALL = ("floor", "tonic", "ours", "ours-json", "ours-memory", "ours-postgres", *PEERS)
STREAMS = ("floor", "tonic", "ours", "ours-json", *PEERS)
HOSTS = ("ours", *PEERS)
# Seconds that one contender's turn in a round is to take.
SHARE = 0.4
NUMBER = "@" * 12
# What one contender measures in a round, for each figure.
Once = Callable[[str, int], list[list[float]]]


@dataclass
class Figure:
    """A row of the table."""

    row: str
    name: str
    unit: str
    # Whether less is better.
    less: bool = True
    values: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def summary(self, contender: str) -> dict[str, float]:
        """Median and quartiles."""
        values = sorted(self.values[contender])
        low, middle, high = (
            statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        )
        return {"median": middle, "low": low, "high": high, "n": len(values)}


@dataclass
class Bench:
    """What the groups share."""

    stage: Stage
    rounds: int
    clis: dict[str, Path]
    # The benchmarks that are programs, by their names.
    programs: dict[str, Path]
    figures: list[Figure] = field(default_factory=list)

    def figure(self, row: str, name: str, unit: str, less: bool = True) -> Figure:
        self.figures.append(Figure(row, name, unit, less))
        return self.figures[-1]

    def there(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self.stage.is_there(name)]

    def interleave(
        self,
        names: Iterable[str],
        figures: list[Figure],
        once: Once,
        rounds: int | None = None,
        purpose: str = "",
    ) -> None:
        """Rounds in each of which every contender has its turn; `once` gives the values of each figure."""
        names = self.there(names)
        for number in range(rounds or self.rounds):
            for name in list(names):
                try:
                    measured = once(name, number)
                except Refused as refused:
                    # What it measured before counts, and what it does next might not.
                    for figure in figures:
                        figure.failed[name] = str(refused)
                    print(f"    {name}: {refused}", file=sys.stderr, flush=True)
                    names.remove(name)
                    self.stage.end_one(name, purpose)
                    continue
                for figure, values in zip(figures, measured, strict=True):
                    figure.values.setdefault(name, []).extend(values)


def script(*lines: str) -> str:
    return "\n".join(("#!fake", *lines))


def recorded() -> dict[str, Any]:
    """An assistant frame as the newest CLI has printed it, with the places of its number and session."""
    newest = max((ROOT / "tests/frames").glob("*.ndjson"), key=lambda path: path.stem.split(".")[-1].zfill(6))
    frames: Iterable[dict[str, Any]] = map(json.loads, newest.read_text().splitlines())
    frame = next(frame for frame in frames if frame.get("type") == "assistant")
    frame["session_id"] = "$SESSION"
    frame["uuid"] = frame["uuid"][:24] + NUMBER
    frame["message"]["content"] = [{"type": "text", "text": f"word {NUMBER}"}]
    return frame


def lean() -> dict[str, Any]:
    """The same with the keys that make it one: ids, usage, parent; 300 bytes."""
    whole = recorded()
    message, usage = whole["message"], whole["message"]["usage"]
    told = {name: usage[name] for name in ("input_tokens", "output_tokens")}
    return {
        "type": whole["type"],
        "message": {
            "id": message["id"][:12],
            "role": message["role"],
            "model": "fake",
            "content": [{"type": "text", "text": NUMBER}],
            "usage": told,
        },
        "parent_tool_use_id": None,
        "session_id": "$SESSION",
        "uuid": whole["uuid"],
    }


def line_of(frame: dict[str, Any]) -> str:
    return json.dumps(frame, separators=(",", ":"))


def repeated(line: str) -> Callable[[int], str]:
    """What has it printed so often."""
    return lambda count: f"repeat {count} {line}"


def size_of(line: str) -> int:
    """Bytes of it as it is printed."""
    return len(line.replace("$SESSION", "0" * 36)) + 1


def opened(asked: Asked, *sessions: str, **arguments: object) -> None:
    asked.ask("open", sessions=list(sessions), prompt="hi", **arguments)


def warm(bench: Bench) -> None:
    """A turn of a session whose process is there."""
    names = ("warm turn, first message", "warm turn, its end")
    figures = [bench.figure("warm", name, "µs") for name in names]
    ready: set[str] = set()

    def once(name: str, _round: int) -> list[list[float]]:
        asked = bench.stage.get(name)
        session = f"warm-{name}"
        if name not in ready:
            opened(asked, session)
            ready.add(name)
        answer = asked.ask("turns", sessions=[session], prompt="hi", count=100)
        return [[value * 1e6 for value in answer[key]] for key in ("first", "whole")]

    bench.interleave(ALL, figures, once)
    unary = bench.figure("warm", "one unary call, for comparison", "µs")

    def call(name: str, _round: int) -> list[list[float]]:
        answer = bench.stage.get(name).ask("calls", call="GetSession", sessions=[f"warm-{name}"], count=100)
        return [[value * 1e6 for value in answer["whole"]]]

    bench.interleave([name for name in ALL if name.startswith("ours") and name in ready], [unary], call)


def streams(
    bench: Bench,
    row: str,
    title: str,
    prompt: Callable[[int], str],
    most: int,
    *,
    partial: bool = False,
    size: int = 0,
) -> None:
    """One session that prints as fast as it can; `size` in bytes, where a rate of bytes is told."""
    unit = "MB/s" if size else "k/s"
    rate = bench.figure(row, title, unit, less=False)
    cpu = bench.figure(row, f"{title}: CPU of the host", "ms/GB" if size else "s/million")
    counts: dict[str, int] = {}
    session = f"{row}-stream"

    def once(name: str, _round: int) -> list[list[float]]:
        asked = bench.stage.get(name)
        if name not in counts:
            mine = f"{session}-{name}"
            opened(asked, mine, partial=partial)
            few = max(1, most // 500)
            answer = asked.ask("turns", sessions=[mine], prompt=script(prompt(few)), count=1, partial=partial)
            # The first frames take longer than the others; one more estimate.
            some = max(few, min(most, int(few / answer["seconds"] * SHARE / 4)))
            answer = asked.ask(
                "turns", sessions=[mine], prompt=script(prompt(some)), count=1, partial=partial
            )
            counts[name] = max(few, min(most, int(some / answer["seconds"] * SHARE)))
        count, before = counts[name], asked.contender.cpu()
        answer = asked.ask(
            "turns", sessions=[f"{session}-{name}"], prompt=script(prompt(count)), count=1, partial=partial
        )
        if answer["messages"] < count:
            raise Refused(f"{answer['messages']} of {count} frames came")
        used, seconds = asked.contender.cpu() - before, answer["seconds"]
        if size:
            return [[count * size / seconds / 1e6], [used / (count * size) * 1e12]]
        return [[count / seconds / 1e3], [used / count * 1e6]]

    bench.interleave(STREAMS, [rate, cpu], once)


def frames(bench: Bench) -> None:
    for title, frame in (("with ids and usage", lean()), ("as recorded", recorded())):
        line = line_of(frame)
        row = f"frames of {size_of(line)} bytes, {title}"
        streams(bench, "frames", row, repeated(line), 500_000)


def partial(bench: Bench) -> None:
    title = "partial messages of 20 bytes"
    streams(bench, "partial", title, lambda count: f"partial {count} 20", 300_000, partial=True)


def large(bench: Bench) -> None:
    streams(bench, "large", "frames of 100 kB", lambda n: f"frames {n} 100000", 5_000, size=100_000)
    streams(bench, "large", "frames of 5 MB", lambda n: f"frames {n} 5000000", 60, size=5_000_000)


def new(bench: Bench) -> None:
    """Sessions that are made, one after the other."""
    figure = bench.figure("new", "new session, fake CLI, its first turn", "ms")

    def once(name: str, number: int) -> list[list[float]]:
        asked = bench.stage.get(name)
        times = []
        for session in [f"new-{name}-{number}-{one}" for one in range(8)]:
            answer = asked.ask("open", sessions=[session], prompt="hi")
            times.append(answer["whole"][0] * 1e3)
            asked.ask("close", sessions=[session])
        return [times]

    bench.interleave(("floor", "ours", "ours-tree", "ours-memory", "ours-postgres", *PEERS), [figure], once)
    bench.stage.end_one("ours-tree")


def many(bench: Bench) -> None:
    together(bench, 50, STREAMS, 2_000)
    together(bench, 500, ("floor", "tonic", "ours", "python", "typescript"), 200)
    bench.stage.end("500 streams")


def together(bench: Bench, sessions: int, names: Iterable[str], most: int) -> None:
    """Sessions that all print at once: how fast, and how evenly."""
    title, row = f"{sessions} streams at once", "many"
    rate = bench.figure(row, title, "k/s", less=False)
    middle = bench.figure(row, f"{title}: first message, p50", "ms")
    late = bench.figure(row, f"{title}: first message, p99", "ms")
    even = bench.figure(row, f"{title}: last to end / first to end", "times")
    line, counts = line_of(lean()), dict[str, int]()
    # Those that are few are kept, for the interrupts.
    purpose = "" if sessions <= 50 else f"{sessions} streams"

    def once(name: str, _round: int) -> list[list[float]]:
        asked = bench.stage.get(name, purpose)
        ids = [f"many-{name}-{number}" for number in range(sessions)]
        if name not in counts:
            opened(asked, *ids)
            few = max(10, most // 50)
            answer = asked.ask("turns", sessions=ids, prompt=script(f"repeat {few} {line}"), count=1)
            counts[name] = max(few, min(most, int(few / answer["seconds"] * 2 * SHARE)))
        prompt = script(f"repeat {counts[name]} {line}")
        answer = asked.ask("turns", sessions=ids, prompt=prompt, count=1)
        first = sorted(answer["first"])
        return [
            [counts[name] * sessions / answer["seconds"] / 1e3],
            [first[len(first) // 2] * 1e3],
            [first[len(first) * 99 // 100] * 1e3],
            [max(answer["each"]) / min(answer["each"])],
        ]

    rounds = bench.rounds if sessions <= 50 else max(1, bench.rounds // 2)
    bench.interleave(names, [rate, middle, late, even], once, rounds, purpose)


def interrupts(bench: Bench) -> None:
    """Turns that hang, stopped."""
    names = ("floor", *HOSTS)
    hang = script("say x", "hang")

    def stopped(name: str, number: int, sessions: int, prompt: str, purpose: str = "") -> float:
        asked = bench.stage.get(name, purpose)
        ids = [f"stop-{name}-{sessions}-{number}-{one}" for one in range(sessions)]
        opened(asked, *ids)
        asked.ask("hang", sessions=ids, prompt=prompt)
        seconds = float(asked.ask("interrupt", sessions=ids)["seconds"])
        asked.ask("close", sessions=ids)
        return seconds

    one = bench.figure("interrupts", "interrupt of one hanging turn", "ms")
    bench.interleave(
        names,
        [one],
        lambda name, number: [[stopped(name, 10 * number + it, 1, hang) * 1e3 for it in range(5)]],
    )
    fifty = bench.figure("interrupts", "interrupt of 50 hanging turns at once", "ms")
    bench.interleave(names, [fifty], lambda name, number: [[stopped(name, number, 50, hang) * 1e3]])
    # Others wait a minute and more, and are not asked.
    settings = {"POOL__STREAM_INTERRUPT_TIMEOUT": "1s"}
    bench.stage.get("ours", "deaf", settings=settings)
    deaf = script("deaf", "say x", "hang")

    def times(sessions: int) -> Once:
        return lambda name, number: [[stopped(name, number, sessions, deaf, "deaf")]]

    for sessions in (3, 50):
        title = f"interrupt of {sessions} CLIs that do not answer, `stream_interrupt_timeout` 1 s"
        bench.interleave(
            ("ours",),
            [bench.figure("interrupts", title, "s")],
            times(sessions),
            rounds=2,
            purpose="deaf",
        )
    bench.stage.end("deaf")


def memory(bench: Bench) -> None:
    """What sessions hold that do nothing."""
    sessions = 200
    each = bench.figure("memory", f"memory of each of {sessions} idle sessions", "kB")
    threads = bench.figure("memory", f"threads with {sessions} idle sessions", "")

    def once(name: str, number: int) -> list[list[float]]:
        purpose = "memory"
        asked = bench.stage.get(name, purpose)
        # What the first sessions take is there once.
        opened(asked, *[f"first-{name}-{one}" for one in range(20)])
        time.sleep(0.3)
        before = asked.contender.memory()
        for begin in range(0, sessions, 50):
            opened(asked, *[f"idle-{name}-{number}-{one}" for one in range(begin, begin + 50)])
        time.sleep(0.3)
        grown, count = asked.contender.memory() - before, asked.contender.threads()
        bench.stage.end_one(name, purpose)
        return [[grown / sessions], [float(count)]]

    bench.interleave(HOSTS, [each, threads], once, rounds=2, purpose="memory")
    slept = bench.figure("memory", f"memory of each of {sessions} hibernated sessions", "kB")

    def hibernated(name: str, _round: int) -> list[list[float]]:
        asked = bench.stage.get(name, "hibernated", settings={"POOL__HIBERNATE_AFTER": "500ms"})
        ids = [[f"idle-{begin}-{one}" for one in range(50)] for begin in range(0, sessions + 50, 50)]
        opened(asked, *ids[0])
        asked.ask("hibernate", sessions=ids[0])
        before = asked.contender.memory()
        for some in ids[1:]:
            opened(asked, *some)
            asked.ask("hibernate", sessions=some)
        grown = asked.contender.memory() - before
        bench.stage.end_one(name, "hibernated")
        return [[grown / sessions]]

    bench.interleave(("ours",), [slept], hibernated, rounds=1, purpose="hibernated")


def real(bench: Bench) -> None:
    """How soon the real CLI answers, by each way that a session comes to its process."""
    for version, cli in bench.clis.items():
        real_cli(bench, version, cli)
        bench.stage.end(version)


def real_cli(bench: Bench, version: str, cli: Path) -> None:
    ways = ("cold", "from a spare", "warm", "resumed")
    figures = {way: bench.figure("real", f"CLI {version}, {way}: first message", "ms") for way in ways}
    ends = {way: bench.figure("real", f"CLI {version}, {way}: result", "ms") for way in ways}
    settings = {
        "CLI__SANDBOX": "process-tree",
        "POOL__SPARES": "1",
        # Longer than the next spare takes to start.
        "POOL__HIBERNATE_AFTER": "3s",
        "POOL__MAX_PROCESSES": "8",
    }

    origins = {
        "cold": "CREATED",
        "from a spare": "CREATED_FROM_SPARE",
        "warm": "REUSED",
        "resumed": "RESUMED",
    }

    def note(way: str, name: str, answer: dict[str, Any]) -> None:
        if not answer.get("origin", origins[way]).endswith(origins[way]):
            raise Refused(f"a session {way} was {answer['origin']}")
        figures[way].values.setdefault(name, []).append(answer["first"][0] * 1e3)
        ends[way].values.setdefault(name, []).append(answer["whole"][0] * 1e3)

    def once(name: str, number: int) -> list[list[float]]:
        asked = bench.stage.get(name, version, cli=cli, settings=settings)
        session = f"real-{number}"
        if asked.contender.can("prepare"):
            asked.ask("prepare")
            note("from a spare", name, asked.ask("open", sessions=[session], prompt="hello"))
            # The start of the next spare is not to be met by a warm turn.
            asked.ask("prepare")
            note("warm", name, asked.ask("turns", sessions=[session], prompt="hello", count=1))
            asked.ask("close", sessions=[session])
            if asked.contender.can("hibernate"):
                # No spare may start meanwhile.
                asked.ask("prepare")
        note("cold", name, asked.ask("open", sessions=[f"{session}-cold"], prompt="hello", fresh=True))
        if not asked.contender.can("prepare"):
            note("warm", name, asked.ask("turns", sessions=[f"{session}-cold"], prompt="hello", count=1))
        if asked.contender.can("hibernate"):
            asked.ask("hibernate", sessions=[f"{session}-cold"])
            note("resumed", name, asked.ask("turns", sessions=[f"{session}-cold"], prompt="hello", count=1))
        asked.ask("close", sessions=[f"{session}-cold"])
        return [[] for _ in range(2 * len(ways))]

    both = [*figures.values(), *ends.values()]
    bench.interleave(("floor", *HOSTS), both, once, purpose=version)


def load(bench: Bench) -> None:
    """Turns as fast as they go, and what each costs the host."""
    for sessions, turns in ((1, 200), (32, 25)):
        by = f"{sessions} session{'s' if sessions > 1 else ''} at once"
        rate = bench.figure("load", f"turns per second, {by}", "/s", less=False)
        cpu = bench.figure("load", f"turns, {by}: CPU of the host", "µs")

        def once(name: str, _round: int, sessions: int = sessions, turns: int = turns) -> list[list[float]]:
            asked = bench.stage.get(name)
            ids = [f"load-{name}-{one}" for one in range(sessions)]
            opened(asked, *ids)
            before, all_turns = asked.contender.cpu(), sessions * turns
            seconds = asked.ask("turns", sessions=ids, prompt="hi", count=turns)["seconds"]
            used = asked.contender.cpu() - before
            asked.ask("close", sessions=ids)
            return [[all_turns / seconds], [used / all_turns * 1e6]]

        bench.interleave(("ours", "ours-memory", "ours-postgres", *PEERS), [rate, cpu], once)


def storm(bench: Bench) -> None:
    """Sessions whose CLIs take a second to start, all at once, and a warm one meanwhile."""
    whole = bench.figure("storm", "16 new sessions at once, 1 s of start each", "s")
    worst = bench.figure("storm", "  worst turn of a warm session meanwhile", "ms")
    model = "fake:boot=1000"

    def once(name: str, number: int) -> list[list[float]]:
        asked = bench.stage.get(name, "storm")
        opened(asked, f"warm-{number}")
        ids = [f"storm-{number}-{one}" for one in range(16)]
        answer = asked.ask("storm", sessions=ids, model=model, warm=f"warm-{number}", prompt="hi")
        asked.ask("close", sessions=[*ids, f"warm-{number}"])
        return [[answer["seconds"]], [answer["worst"] * 1e3]]

    bench.interleave(HOSTS, [whole, worst], once, rounds=2, purpose="storm")
    bench.stage.end("storm")


def slow(bench: Bench) -> None:
    """A caller that does not read a large answer: what its host holds for it."""
    grown = bench.figure("slow", "memory growth while nobody reads a 200 MB answer", "MB")

    def once(name: str, _round: int) -> list[list[float]]:
        asked = bench.stage.get(name, "slow")
        opened(asked, "slow")
        before = most = asked.contender.memory()
        asked.ask("stall", sessions=["slow"], prompt=script("frames 200000 1000"))
        quiet = time.monotonic() + 2.0
        deadline = quiet + 15.0
        while time.monotonic() < min(quiet, deadline):
            if (now := asked.contender.memory()) > most + 256:
                most, quiet = now, time.monotonic() + 2.0
            time.sleep(0.02)
        answer = asked.ask("resume")
        if answer["messages"] < 199_000:
            raise Refused(f"{answer['messages']} of 200000 frames were there afterwards")
        return [[(most - before) / 1024]]

    bench.interleave(HOSTS, [grown], once, rounds=1, purpose="slow")
    bench.stage.end("slow")


def orphans(bench: Bench) -> None:
    """What is left of ten CLIs in mid-turn when their host is killed."""
    version, cli = list(bench.clis.items())[-1]
    left = bench.figure(
        "orphans", f"CLIs {version} left 1 s after SIGKILL of their host, of 10 in mid-turn", ""
    )

    def once(name: str, _round: int) -> list[list[float]]:
        asked = bench.stage.get(name, "orphans", cli=cli)
        ids = [f"orphan-{one}" for one in range(10)]
        for one in ids:
            opened(asked, one)
        asked.ask("hang", sessions=ids, prompt="[[words 100000 every 20]]")
        process = asked.contender.process.pid
        alive = [pid for pid in descendants(process) if runs(pid, cli)]
        if len(alive) < len(ids):
            raise Refused(f"{len(alive)} CLIs run, not {len(ids)}")
        os.kill(asked.contender.pid, signal.SIGKILL)
        time.sleep(1.0)
        count = sum(runs(pid, cli) for pid in alive)
        for pid in filter(lambda pid: runs(pid, cli), alive):
            os.kill(pid, signal.SIGKILL)
        bench.stage.end_one(name, "orphans")
        return [[float(count)]]

    bench.interleave(HOSTS, [left], once, rounds=1, purpose="orphans")


def stored(bench: Bench) -> None:
    """Services with many sessions in their databases, beside one with none."""
    empty: float | None = None
    for sessions in (0, 10_000, 100_000):
        what = f"with {sessions:,} stored sessions" if sessions else "with no session"
        asked = bench.stage.get("ours", f"stored {sessions}", arguments=(str(sessions),))
        held = asked.contender.memory()
        if empty is None:
            empty = held
        else:
            each = bench.figure("stored", f"memory of each of {sessions:,} stored sessions", "bytes")
            each.values["ours"] = [(held - empty) * 1024 / sessions]
        ready = bench.figure("stored", f"service is ready, {what}", "ms")
        ready.values["ours"] = [asked.contender.hello["ready"] * 1e3]
        for call in ("GetStats", "ListSessions"):
            figure = bench.figure("stored", f"{call}, {what}", "µs")
            asked.ask("calls", call=call, count=20)
            answer = asked.ask("calls", call=call, count=100)
            figure.values["ours"] = [value * 1e6 for value in answer["whole"]]
        bench.stage.end(f"stored {sessions}")


def rate(bench: Bench) -> None:
    """How fast processes start beside many that are there."""
    begun: dict[str, int] = {}
    purpose = "rate"

    def once(live: int) -> Once:
        def start(name: str, number: int) -> list[list[float]]:
            asked = bench.stage.get(name, purpose)
            while begun.get(name, 0) < live:
                begin = begun.get(name, 0)
                opened(asked, *[f"live-{name}-{one}" for one in range(begin, begin + 50)])
                begun[name] = begin + 50
            ids = [f"rate-{name}-{live}-{number}-{one}" for one in range(50)]
            seconds = asked.ask("open", sessions=ids, prompt="hi")["seconds"]
            asked.ask("close", sessions=ids)
            return [[len(ids) / seconds]]

        return start

    for live in (100, 1000):
        figure = bench.figure(
            "rate", f"new sessions per second, 50 at once, beside {live:,}", "/s", less=False
        )
        bench.interleave(("floor", "ours", "python", "typescript"), [figure], once(live), 3, purpose)
        stats = bench.figure("rate", f"GetStats beside {live:,} live sessions", "µs")
        answer = bench.stage.get("ours", purpose).ask("calls", call="GetStats", count=100)
        stats.values["ours"] = [value * 1e6 for value in answer["whole"]]
    bench.stage.end(purpose)


def forwarded(bench: Bench) -> None:
    """A call that comes to another node than its session's."""
    if not bench.stage.is_there("ours-postgres"):
        return
    one, two = bench.stage.nodes("forwarded", ("one", "two"))
    opened(one, "here")
    ways = {"at its node": one, "forwarded": two}
    figures = {
        way: [bench.figure("forwarded", f"{what}, {way}", "µs") for what in ("warm turn", "unary call")]
        for way in ways
    }
    for _ in range(bench.rounds):
        for way, asked in ways.items():
            turns = asked.ask("turns", sessions=["here"], prompt="hi", count=50)["whole"]
            calls = asked.ask("calls", call="GetSession", sessions=["here"], count=50)["whole"]
            for figure, times in zip(figures[way], (turns, calls), strict=True):
                figure.values.setdefault("ours-postgres", []).extend(time * 1e6 for time in times)
    for name in ("one", "two"):
        bench.stage.end(f"forwarded {name}")


def told_by(bench: Bench, row: str, contender: str) -> None:
    """What the program of this name measures and prints: a line of JSON for each figure."""
    done = subprocess.run(
        [bench.programs[row], "--bench"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    if done.returncode != 0:
        raise Failure(f"benches/{row} failed: {done.stderr.strip()[-500:]}")
    for line in filter(lambda line: line.startswith("{"), done.stdout.splitlines()):
        told = json.loads(line)
        less = told["unit"] not in ("/s", "kB/s", "MB/s", "of direct")
        figure = bench.figure(row, told["figure"], told["unit"], less)
        figure.values[contender] = [told["value"]]


def nodes(bench: Bench) -> None:
    """Several nodes on PostgreSQL."""
    if bench.stage.is_there("ours-postgres"):
        told_by(bench, "nodes", "ours-postgres")


def gateway(bench: Bench) -> None:
    """The way through the API gateway, beside the straight one."""
    told_by(bench, "gateway", "ours")


# In the order in which they are run.
ROWS: dict[str, Callable[[Bench], None]] = {
    "warm": warm,
    "frames": frames,
    "partial": partial,
    "large": large,
    "new": new,
    "many": many,
    "interrupts": interrupts,
    "memory": memory,
    "real": real,
    "load": load,
    "storm": storm,
    "slow": slow,
    "orphans": orphans,
    "stored": stored,
    "forwarded": forwarded,
    "rate": rate,
    "nodes": nodes,
    "gateway": gateway,
}

__all__ = ["ROWS", "Bench", "Contender", "Figure"]
