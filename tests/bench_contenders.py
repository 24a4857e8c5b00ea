"""The contenders of tests/bench: a driver program each, which does what lines on its standard input say.

docs/benchmarks.md has the table of commands. Knows how drivers are started and what their processes hold;
nothing of what is measured.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from live_cluster import Postgres
from live_proxies import free_port
from live_service import (
    ROOT,
    Daemon,
    marked_processes,
    service_environment,
    stand_in_settings,
    start_stand_in,
)

HERE = ROOT / "benches/contenders"
# Of one command.
LIMIT = 180.0
STOP_LIMIT = 30.0
TICKS = os.sysconf("SC_CLK_TCK")
# What all services are told, besides where their CLI is.
SETTINGS = {
    "SERVER__LISTEN": "127.0.0.1:0",
    "POOL__MAX_PROCESSES": "1500",
    "POOL__MAX_SESSIONS": "200000",
    "POOL__START_CONCURRENCY": "32",
    "LOG__FORMAT": "json",
}

Answer = dict[str, Any]


class Refused(Exception):
    """A contender that did not do what it was told, and why."""


@dataclass(frozen=True)
class Kind:
    """A contender of the table."""

    name: str
    # As the head of its column.
    title: str
    # What starts its driver; {programs} and {packages} stand for folders.
    command: tuple[str, ...]
    # What its service is told.
    settings: dict[str, str] = field(default_factory=dict)
    # What each of its commands has besides.
    extra: dict[str, str] = field(default_factory=dict)
    # Another one whose driver it shares.
    driver: str = ""
    needs_postgres: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind("floor", "floor", ("{contenders}", "floor")),
        Kind("tonic", "gRPC alone", ("{contenders}", "tonic")),
        Kind("ours", "service", ("{contenders}", "ours")),
        Kind(
            "ours-json", "service, JSON", ("{contenders}", "ours"), extra={"payload": "json"}, driver="ours"
        ),
        Kind("ours-memory", "service, `memory`", ("{contenders}", "ours"), {"STORE__KIND": "memory"}),
        Kind("ours-postgres", "service, `postgres`", ("{contenders}", "ours"), needs_postgres=True),
        Kind(
            "ours-tree",
            "service, `process-tree`",
            ("{contenders}", "ours"),
            {"CLI__SANDBOX": "process-tree"},
        ),
        Kind("python", "Python SDK", ("{peers}/python-sdk/bin/python", "-B", f"{HERE}/python_sdk")),
        Kind("typescript", "TypeScript SDK", ("node", f"{HERE}/agent_sdk.mjs")),
        Kind("ccproxy", "ccproxy-api", ("{peers}/ccproxy/bin/python", "-B", f"{HERE}/ccproxy_pool")),
    )
}
PEERS = ("python", "typescript", "ccproxy")


@dataclass
class Places:
    """Where what was built and fetched is."""

    contenders: Path
    fake: Path
    programs: Path
    peers: Path


class Contender:
    """A driver at work, from its start to `stop`."""

    def __init__(self, kind: Kind, command: list[str], env: dict[str, str], folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env=env,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,
            )
        self.buffer = b""
        try:
            self.hello = self._line(LIMIT)
        except BaseException:
            self.stop()
            raise
        self.pid = int(self.hello["pid"])
        self.version = str(self.hello["version"])

    def can(self, what: str) -> bool:
        return what in self.hello["can"]

    def shared_with(self, kind: Kind) -> Asked:
        """The same driver for another kind."""
        return Asked(self, kind)

    def _line(self, limit: float) -> Answer:
        stdout = self.process.stdout
        if stdout is None:
            raise Refused("no output")
        deadline = time.monotonic() + limit
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise Refused(f"no answer within {limit:.0f} s")
            if not (read := os.read(stdout.fileno(), 1 << 20)):
                raise Refused(f"the driver ended: {self.tail()}")
            self.buffer += read
        line, self.buffer = self.buffer.split(b"\n", 1)
        answer = json.loads(line)
        if not isinstance(answer, dict) or "error" in answer:
            raise Refused(str(answer["error"]) if isinstance(answer, dict) else "no answer")
        return answer

    def send(self, command: Answer, limit: float) -> Answer:
        if self.process.stdin is None:
            raise Refused("no input")
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise Refused(f"the driver ended: {self.tail()}") from None
        return self._line(limit)

    def tail(self) -> str:
        """The last line that it wrote elsewhere."""
        return (self.log.read_text(errors="replace").strip().splitlines() or ["nothing was said"])[-1][:300]

    def cpu(self) -> float:
        """Processor seconds of its process so far."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICKS

    def _status(self, key: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key))

    def memory(self) -> float:
        """Kilobytes that its process holds."""
        return float(self._status("VmRSS:"))

    def threads(self) -> int:
        return self._status("Threads:")

    def stop(self) -> None:
        """Ends it with the end of its input; one that does not obey is killed, and all that is left too."""
        if self.process.stdin:
            with suppress(OSError):
                self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_LIMIT)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        kill_left(str(self.folder))
        subprocess.run(["rm", "-rf", "--", self.folder], check=False)


class Asked:
    """A driver, asked for one kind of contender."""

    def __init__(self, contender: Contender, kind: Kind) -> None:
        self.contender, self.kind = contender, kind

    def ask(self, what: str, **arguments: object) -> Answer:
        """Has it carry out a command; returns its answer."""
        return self.contender.send({"do": what} | arguments | self.kind.extra, LIMIT)


class Stage:
    """Starts contenders, each once for a purpose, and ends all of them."""

    def __init__(self, places: Places, left_out: dict[str, str]) -> None:
        self.places, self.left_out = places, left_out
        self.versions: dict[str, str] = {}
        self.running: dict[tuple[str, str], Contender] = {}
        self.cleanup = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="session-pool-bench-"))
        # PostgreSQL runs as a user of its own.
        self.folder.chmod(0o711)
        self.cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.postgres: Postgres | None = None
        self.stand_in: tuple[Daemon, str] | None = None
        self.numbers = 0

    def is_there(self, name: str) -> bool:
        return name not in self.left_out

    def database(self) -> str:
        """The URL of PostgreSQL, which is started when it is asked for first."""
        if self.postgres is None:
            self.postgres = Postgres(self.folder / "postgres", durable=True)
            self.cleanup.callback(self.postgres.stop)
        return self.postgres.url

    def api(self) -> str:
        """The URL of the stand-in for the Messages API, likewise."""
        if self.stand_in is None:
            self.stand_in = start_stand_in(self.places.programs, self.folder)
            self.cleanup.callback(self.stand_in[0].stop)
        return self.stand_in[1]

    def get(
        self,
        name: str,
        purpose: str = "",
        cli: Path | None = None,
        settings: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> Asked:
        """A contender; the same as before for the same purpose. `cli` is a real one."""
        kind = KINDS[name]
        key = (kind.driver or name, purpose)
        if key not in self.running:
            self.running[key] = self._start(KINDS[key[0]], cli, settings or {}, arguments)
        return self.running[key].shared_with(kind)

    def _start(
        self, kind: Kind, cli: Path | None, settings: dict[str, str], arguments: tuple[str, ...]
    ) -> Contender:
        self.numbers += 1
        folder = self.folder / f"{kind.name}-{self.numbers}"
        (folder / "home").mkdir(parents=True)
        (folder / "config").mkdir()
        env = service_environment()
        program = cli or self.places.fake
        env |= {"HOME": str(folder / "home"), "CLAUDE_CONFIG_DIR": str(folder / "config")}
        env |= {"BENCH_FOLDER": str(folder), "BENCH_CLI": str(program)}
        env |= {"BENCH_PACKAGES": str(self.places.peers / "typescript"), "IS_SANDBOX": "1"}
        told = SETTINGS | {"CLI__PATH": str(program)} | kind.settings | settings
        if kind.needs_postgres:
            told |= {"STORE__KIND": "postgres", "STORE__URL": self.database()}
        if cli:
            of_cli = stand_in_settings(self.api())
            env |= of_cli | {key.removeprefix("SESSION_POOL__CLI__ENV__"): it for key, it in of_cli.items()}
        if kind.name.startswith("ours"):
            env |= {f"SESSION_POOL__{key}": value for key, value in told.items()}
        stand_for = {"contenders": self.places.contenders, "peers": self.places.peers}
        command = [part.format(**stand_for) for part in kind.command]
        contender = Contender(kind, [*command, *arguments], env, folder)
        self.versions[kind.name] = contender.version
        return contender

    def end(self, purpose: str | None = None) -> None:
        """Ends the contenders of a purpose, or all of them."""
        for key in [key for key in self.running if purpose is None or key[1] == purpose]:
            self.running.pop(key).stop()

    def end_one(self, name: str, purpose: str = "") -> None:
        """Ends one, which may be broken: the next who asks for it has a new one."""
        if contender := self.running.pop((KINDS[name].driver or name, purpose), None):
            contender.stop()

    def nodes(self, purpose: str, names: tuple[str, ...]) -> list[Asked]:
        """Services that share a database and know of each other."""
        started = []
        for name in names:
            address = f"127.0.0.1:{free_port()}"
            settings = {"SERVER__LISTEN": address, "CLUSTER__ADVERTISE": address, "CLUSTER__NODE": name}
            started.append(self.get("ours-postgres", f"{purpose} {name}", settings=settings))
        return started

    def close(self) -> None:
        try:
            self.end()
        finally:
            self.cleanup.close()
            kill_left(str(self.folder))


def descendants(pid: int) -> list[int]:
    """The processes below one."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def runs(pid: int, program: Path) -> bool:
    """Whether a process is one of this program."""
    try:
        return os.path.samestat(Path(f"/proc/{pid}/exe").stat(), program.stat())
    except OSError:
        return False


def kill_left(mark: str) -> None:
    """Kills what carries on of a contender: that it does is what a row of its own measures."""
    for process in marked_processes(mark):
        with suppress(ProcessLookupError):
            os.kill(int(process.split()[0]), signal.SIGKILL)
