"""Starts the service on the real CLI, with the stand-in for the Messages API, and ends both.

For the scripts beside this file. Everything a run leaves behind is in one temporary folder; its name is in
the environment of every process that the service starts, which is how those that carry on are found.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

ROOT = Path(__file__).resolve().parent.parent
SERVICE = "session-pool"
STAND_IN = "messages-stand-in"
START_LIMIT = 60.0
# Longer than `server.drain_timeout` and the bounded stop of the processes.
STOP_LIMIT = 60.0


class Failure(Exception):
    """Something that the user of a script has to be told."""


def exit_on_sigterm() -> None:
    """Makes SIGTERM and SIGHUP raise SystemExit, so that everything is cleaned up; once. make passes on a
    signal that the whole process group has got, and a second one must not break off the cleaning.
    """
    ending = (signal.SIGTERM, signal.SIGHUP)

    def leave(number: int, _frame: object) -> NoReturn:
        for it in ending:
            # Not ignored: that would be inherited by what is started for the cleaning.
            signal.signal(it, lambda *_: None)
        sys.exit(128 + number)

    for it in ending:
        # nohup has SIGHUP ignored, and that stays so.
        if signal.getsignal(it) is not signal.SIG_IGN:
            signal.signal(it, leave)


def target_dir() -> Path:
    """Where cargo builds."""
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target")


def build() -> Path:
    """Builds the programs, unless SESSION_POOL_BIN_DIR says where they are; returns their folder."""
    if given := os.environ.get("SESSION_POOL_BIN_DIR"):
        return ROOT / given
    command = ["cargo", "build", "--locked", "--quiet", "--features", "test-tools", "--bins"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise Failure("the build failed")
    return target_dir() / "debug"


def cli_version() -> str:
    """The version that everything but the compatibility tests runs on: the last of the lock file."""
    return (ROOT / ".ci/claude-cli.lock").read_text().splitlines()[-1].split()[0]


def fetch_cli() -> Path:
    """Makes sure that the pinned CLI is there; returns its path."""
    version = cli_version()
    fetch = subprocess.run([ROOT / ".ci/fetch-cli", version], stdout=subprocess.DEVNULL, check=False)
    if fetch.returncode != 0:
        raise Failure(f"no Claude CLI {version}")
    return ROOT / os.environ.get("SESSION_POOL_CLAUDE_DIR", "target/claude") / version / "claude"


def fetch_all_clis() -> None:
    """Makes sure that every pinned CLI is there."""
    if subprocess.run([ROOT / ".ci/fetch-cli"], check=False).returncode != 0:
        raise Failure("a pinned Claude CLI is missing")


def service_environment() -> dict[str, str]:
    """The environment of the caller without any configuration of the service."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SESSION_POOL_")}


def stand_in_settings(url: str) -> dict[str, str]:
    """The configuration that makes the CLI talk to the stand-in, as environment variables."""
    cli = {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "sk-ant-dummy",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    return {f"SESSION_POOL__CLI__ENV__{name}": value for name, value in cli.items()}


class Daemon:
    """A process in the background whose output goes to a file."""

    def __init__(
        self, program: Path, *arguments: str, env: dict[str, str], log: Path, folder: Path | None = None
    ) -> None:
        self.name = program.name
        self.log = log
        self.told = False
        with log.open("wb") as output:
            # A group of its own: Ctrl-C is for the script, which then ends the others in order.
            self.process = subprocess.Popen(
                [program, *arguments],
                env=env,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def wait_for(self, find: Callable[[str], str | None]) -> str:
        """The first thing that `find` finds in a line of the output."""
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            ended = self.process.poll()
            for line in self.log.read_text(errors="replace").splitlines():
                if found := find(line):
                    return found
            if ended is not None:
                raise Failure(f"{self.name} ended with code {ended} before it was ready\n{self.tail()}")
            time.sleep(0.02)
        raise Failure(f"{self.name} was not ready within {START_LIMIT:.0f} s\n{self.tail()}")

    def tail(self, lines: int = 20) -> str:
        """The end of the output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def tell_to_stop(self) -> None:
        """Sends SIGTERM, once: a second one has the service stop without waiting for its turns."""
        if not self.told:
            self.told = True
            self.process.terminate()

    def stop(self) -> int:
        """Ends the process with SIGTERM and returns its exit code; one that does not obey is killed."""
        self.tell_to_stop()
        try:
            return self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            self.process.kill()
            self.process.wait()


def start_stand_in(bin_dir: Path, folder: Path) -> tuple[Daemon, str]:
    """Starts the stand-in, logging to `folder`; returns it and its URL."""
    daemon = Daemon(
        bin_dir / STAND_IN, "--listen", "127.0.0.1:0", env=service_environment(), log=folder / "stand-in.log"
    )
    try:
        url = daemon.wait_for(lambda line: line.removeprefix("listening ") if "listening" in line else None)
    except BaseException:
        daemon.stop()
        raise
    return daemon, url


class LiveService:
    """The service and the stand-in, from `with` to its end."""

    def __init__(self, bin_dir: Path, cli: Path, settings: dict[str, str] | None = None) -> None:
        self.bin_dir, self.cli, self.settings = bin_dir, cli, settings or {}
        self.folder = Path(tempfile.mkdtemp(prefix="session-pool-"))
        self.daemons: list[Daemon] = []
        self.address = self.url = self.figures = ""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and kind is not SystemExit and self.daemons:
            print(f"\nThe end of the service's log:\n{self.daemons[-1].tail()}", file=sys.stderr)
        self._clean_up()

    def _start(self) -> None:
        stand_in, self.url = start_stand_in(self.bin_dir, self.folder)
        self.daemons.append(stand_in)
        self._start_service()

    def _start_service(self) -> None:
        settings = {
            "SERVER__LISTEN": "127.0.0.1:0",
            "CLI__PATH": str(self.cli),
            "STATE_DIR": str(self.folder / "state"),
            "LOG__FORMAT": "json",
        }
        env = service_environment() | stand_in_settings(self.url)
        env |= {f"SESSION_POOL__{key}": value for key, value in (settings | self.settings).items()}
        service = Daemon(self.bin_dir / SERVICE, "serve", env=env, log=self.folder / "service.log")
        self.daemons.append(service)
        self.address = service.wait_for(listening_address)
        if "SERVER__METRICS_LISTEN" in self.settings:
            self.figures = service.wait_for(lambda line: listening_address(line, "metrics_address"))
        # It listens before a CLI has answered; what the documents show is a service at work.
        service.wait_for(lambda line: line if '"message":"ready"' in line else None)

    def kill(self) -> None:
        """Ends the service as a crash would."""
        service = self.daemons.pop()
        service.process.kill()
        service.process.wait()

    def start_again(self) -> None:
        """Starts a service that was killed, at the same address and with the same state."""
        self.settings = self.settings | {"SERVER__LISTEN": self.address}
        self._start_service()

    def stop(self) -> None:
        """Ends both, the service first, and fails if it ended badly or left a process behind."""
        problems = []
        while self.daemons:
            daemon = self.daemons.pop()
            if (code := daemon.stop()) != 0:
                problems.append(f"{daemon.name} ended with code {code}\n{daemon.tail()}")
        problems += [f"process {process} is still there" for process in self.processes()]
        if problems:
            raise Failure("\n".join(problems))

    def processes(self) -> list[str]:
        """The processes of this run that are alive, each as `PID COMMAND`."""
        return marked_processes(str(self.folder))

    def _clean_up(self) -> None:
        while self.daemons:
            self.daemons.pop().stop()
        kill_marked(str(self.folder))
        subprocess.run(["rm", "-rf", "--", self.folder], check=False)


def marked_processes(mark: str) -> list[str]:
    """The processes with this in their environment, each as `PID COMMAND`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{folder.name} {command.strip()}")
        except OSError:
            continue
    return found


def kill_marked(mark: str) -> None:
    """Kills the processes with this in their environment, and says so."""
    for process in marked_processes(mark):
        with suppress(ProcessLookupError):
            os.kill(int(process.split()[0]), signal.SIGKILL)
        # Afterwards: whoever reads that may be gone.
        print(f"killed what was left behind: {process}", file=sys.stderr)


def wait_until(what: str, holds: Callable[[], bool], daemon: Daemon | None = None) -> None:
    """Waits for something that says nothing when it happens."""
    deadline = time.monotonic() + START_LIMIT
    while not holds():
        if daemon is not None and daemon.process.poll() is not None:
            raise Failure(f"{daemon.name} has ended\n{daemon.tail()}")
        if time.monotonic() > deadline:
            raise Failure(
                f"not within {START_LIMIT:.0f} s: {what}" + (f"\n{daemon.tail()}" if daemon else "")
            )
        time.sleep(0.02)


def listening_address(line: str, field: str = "address") -> str | None:
    """An address in the service's log line `listening`, the JSON of which may be flat or not."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict):
        return None
    fields = event.get("fields", event)
    address = fields.get(field) if fields.get("message") == "listening" else None
    return address if isinstance(address, str) else None
