"""Starts three nodes of the service on a throw-away PostgreSQL, behind proxies, all on loopback.

Beside live_service.py, of which it uses the parts, and live_proxies.py, which has the proxies. PostgreSQL is
Debian's and runs as an unprivileged user; the database is made as docs/operations.md says.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from documents import the_block
from live_proxies import PROXIES, Proxy, free_port, is_open
from live_service import (
    SERVICE,
    Daemon,
    Failure,
    kill_marked,
    marked_processes,
    service_environment,
    stand_in_settings,
    start_stand_in,
    wait_until,
)

NODES = ("node-a", "node-b", "node-c")


def postgres_programs() -> Path:
    """The folder of the newest PostgreSQL of this machine."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        raise Failure(
            "PostgreSQL is not installed: Debian's package `postgresql` is enough; .ci/tools brings it"
        )
    return max(found, key=lambda path: int(path.parent.name))


class Postgres:
    """A server of our own, which ends with the script that has it."""

    def __init__(self, folder: Path, durable: bool = False) -> None:
        self.folder, self.port, self.programs = folder, free_port(), postgres_programs()
        # It refuses to run as root.
        self.user = next((name for name in ("postgres", "nobody") if os.getuid() == 0 and known(name)), None)
        folder.mkdir()
        if self.user:
            shutil.chown(folder, self.user)
        initdb = ("-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        self._run("initdb", *initdb, "-D", str(folder / "data"))
        options: tuple[str, ...] = ("-k", str(folder), "-h", "127.0.0.1", "-p", str(self.port))
        if not durable:
            options += ("-c", "fsync=off")
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(self.programs / "postgres"), "-D", str(folder / "data"), *options],
                user=self.user,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        wait_until("PostgreSQL listens", lambda: is_open(self.port) and self._answers())
        # What operators are told to do: the role owns its database, and is nothing else.
        made = the_block("docs/operations.md", "sql").text
        self._run("psql", *self._reached("postgres"), "-v", "ON_ERROR_STOP=1", "-q", given=made)
        self.url = f"postgres://pool@127.0.0.1:{self.port}/pool?sslmode=disable"

    def _reached(self, user: str) -> tuple[str, ...]:
        return ("-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-X")

    def _run(self, name: str, *arguments: str, given: str = "") -> str:
        command = [str(self.programs / name), *arguments]
        done = subprocess.run(
            command, user=self.user, cwd="/", input=given, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Failure(f"{name} ended with code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _answers(self) -> bool:
        command = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, cwd="/", check=False).returncode == 0

    def rows(self, query: str) -> list[list[str]]:
        """What a query finds, as text."""
        arguments = (*self._reached("pool"), "-At", "-F", "\t", "-c", query, "pool")
        return [line.split("\t") for line in self._run("psql", *arguments).splitlines()]

    def stop(self) -> None:
        # SIGINT: it does not wait for clients.
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()


def known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


@dataclass
class Node:
    """A node, and where callers, and other nodes, reach it."""

    name: str
    address: str
    daemon: Daemon


def wait_for_ready(node: Node) -> None:
    node.daemon.wait_for(lambda line: line if '"message":"ready"' in line else None)


class LiveCluster:
    """Three nodes with all that they need, from `with` to its end."""

    def __init__(
        self,
        bin_dir: Path,
        cli: Path,
        proxies: tuple[str, ...] = ("envoy",),
        settings: dict[str, str] | None = None,
    ) -> None:
        self.bin_dir, self.cli, self.settings = bin_dir, cli, settings or {}
        self.folder = Path(tempfile.mkdtemp(prefix="session-pool-"))
        self.nodes: dict[str, Node] = {}
        self.proxies: dict[str, Proxy] = {}
        self.wanted = proxies
        self.starts = 0
        self.ends = ExitStack()

    def __enter__(self) -> LiveCluster:
        self.ends.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.ends.callback(kill_marked, str(self.folder))
        try:
            # The user of PostgreSQL has to get to its folder.
            self.folder.chmod(0o755)
            self.postgres = Postgres(self.folder / "postgres")
            self.ends.callback(self.postgres.stop)
            stand_in, self.stand_in_url = start_stand_in(self.bin_dir, self.folder)
            self.ends.callback(stand_in.stop)
            addresses = {name: f"127.0.0.1:{free_port()}" for name in NODES}
            for name, address in addresses.items():
                self.nodes[name] = Node(name, address, self._start(name, address))
            for node in self.nodes.values():
                wait_for_ready(node)
            for name in self.wanted:
                (own := self.folder / name).mkdir()
                own.chmod(0o755)
                self.proxies[name] = PROXIES[name](own, list(addresses.values()))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_problem: object) -> None:
        self._close()

    def _start(self, name: str, address: str) -> Daemon:
        settings = {
            "SERVER__LISTEN": address,
            "CLI__PATH": str(self.cli),
            "STATE_DIR": str(self.folder / name),
            "LOG__FORMAT": "json",
            "STORE__KIND": "postgres",
            "STORE__URL": self.postgres.url,
            "CLUSTER__NODE": name,
            # All on loopback, and callers are not asked who they are: nodes need no credentials.
            "CLUSTER__ADVERTISE": address,
        }
        env = service_environment() | stand_in_settings(self.stand_in_url)
        env |= {f"SESSION_POOL__{key}": value for key, value in (settings | self.settings).items()}
        self.starts += 1
        return Daemon(self.bin_dir / SERVICE, "serve", env=env, log=self.folder / f"{name}-{self.starts}.log")

    def restart(self, name: str) -> tuple[float, float]:
        """Stops a node in order and starts it again; how long it took to end, and until it serves again."""
        node, began = self.nodes[name], time.monotonic()
        if (code := node.daemon.stop()) != 0:
            raise Failure(f"{name} ended with code {code}\n{node.daemon.tail()}")
        ended = time.monotonic()
        self.start_again(node)
        return ended - began, time.monotonic() - ended

    def start_again(self, node: Node) -> None:
        """Starts a node that has ended, with what it has left behind."""
        node.daemon = self._start(node.name, node.address)
        self.nodes[node.name] = node
        wait_for_ready(node)

    def kill(self, name: str) -> Node:
        """Ends a node as a crash of its machine would."""
        node = self.nodes.pop(name)
        node.daemon.process.kill()
        node.daemon.process.wait()
        return node

    def owners(self) -> dict[str, str]:
        """The sessions, each with the node that has it."""
        return {id: owner for id, owner in self.postgres.rows("SELECT session_id, owner_name FROM sessions")}

    def stop(self) -> None:
        """Ends all of it, and fails if a node ended badly or left a process behind."""
        for proxy in self.proxies.values():
            proxy.daemon.stop()
        codes = {name: self.nodes.pop(name).daemon.stop() for name in list(self.nodes)}
        problems = [f"{name} ended with code {code}" for name, code in codes.items() if code != 0]
        problems += [
            f"process {process} is still there" for process in marked_processes(str(self.folder / "node-"))
        ]
        if problems:
            raise Failure("\n".join(problems))

    def _close(self) -> None:
        for node in self.nodes.values():
            node.daemon.stop()
        self.nodes.clear()
        for proxy in self.proxies.values():
            proxy.daemon.stop()
        self.ends.close()
