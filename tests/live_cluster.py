"""Starts three nodes of the service on a throw-away PostgreSQL, behind Envoy, all on loopback.

Beside live_service.py, of which it uses the parts. PostgreSQL is Debian's and runs as an unprivileged user;
Envoy is the one that .ci/tools installs, with the configuration of deploy/kubernetes/overlays/cluster.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from live_service import (
    ROOT,
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
ENVOY_CONFIGURATION = ROOT / "deploy/kubernetes/overlays/cluster/envoy.yaml"
# Lines of that file, which name addresses of a Kubernetes cluster.
LISTENER = "address: {socket_address: {address: 0.0.0.0, port_value: 50051}}"
ENDPOINT = "- endpoint: {address: {socket_address: {address: session-pool-headless, port_value: 50051}}}"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    with socket.socket() as tried:
        tried.settimeout(1)
        return tried.connect_ex(("127.0.0.1", port)) == 0


def postgres_programs() -> Path:
    """The folder of the newest PostgreSQL of this machine."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        raise Failure(
            "PostgreSQL is not installed: Debian's package `postgresql` is enough; .ci/tools brings it"
        )
    return max(found, key=lambda path: int(path.parent.name))


def envoy_program() -> Path:
    tools = (ROOT / os.environ.get("SESSION_POOL_TOOLS", "target/tools")).resolve()
    found = next(tools.glob("python/lib/python3*/site-packages/envoy/_bin/envoy"), None) or shutil.which(
        "envoy"
    )
    if found is None:
        raise Failure("Envoy is not installed; .ci/tools brings it")
    return Path(found)


class Postgres:
    """A server of our own, which ends with the script that has it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.programs = folder, free_port(), postgres_programs()
        # It refuses to run as root.
        self.user = next((name for name in ("postgres", "nobody") if os.getuid() == 0 and known(name)), None)
        folder.mkdir()
        if self.user:
            shutil.chown(folder, self.user)
        initdb = ("-A", "trust", "-U", "pool", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        self._run("initdb", *initdb, "-D", str(folder / "data"))
        options = ("-k", str(folder), "-h", "127.0.0.1", "-p", str(self.port), "-c", "fsync=off")
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
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "pool", "pool")
        self.url = f"postgres://pool@127.0.0.1:{self.port}/pool?sslmode=disable"

    def _run(self, name: str, *arguments: str) -> str:
        command = [str(self.programs / name), *arguments]
        done = subprocess.run(command, user=self.user, cwd="/", capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure(f"{name}: {done.stderr.strip()}")
        return done.stdout

    def _answers(self) -> bool:
        command = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, cwd="/", check=False).returncode == 0

    def rows(self, query: str) -> list[list[str]]:
        """What a query finds, as text."""
        arguments = (
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "pool",
            "-AtX",
            "-F",
            "\t",
            "-c",
            query,
            "pool",
        )
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


class LiveCluster:
    """Three nodes with all that they need, from `with` to its end."""

    def __init__(self, bin_dir: Path, cli: Path) -> None:
        self.bin_dir, self.cli = bin_dir, cli
        self.folder = Path(tempfile.mkdtemp(prefix="session-pool-"))
        self.nodes: dict[str, Node] = {}
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
                node.daemon.wait_for(lambda line: line if '"message":"ready"' in line else None)
            self._start_envoy()
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
        env |= {f"SESSION_POOL__{key}": value for key, value in settings.items()}
        return Daemon(self.bin_dir / SERVICE, "serve", env=env, log=self.folder / f"{name}.log")

    def _start_envoy(self) -> None:
        port = free_port()
        text = ENVOY_CONFIGURATION.read_text()
        nodes = [node.address.rpartition(":") for node in self.nodes.values()]
        endpoints = [
            ENDPOINT.replace("session-pool-headless", host).replace("50051", at) for host, _, at in nodes
        ]
        local = LISTENER.replace("0.0.0.0", "127.0.0.1").replace("50051", str(port))
        for line, instead in ((LISTENER, local), (ENDPOINT, ("\n" + 14 * " ").join(endpoints))):
            if text.count(line) != 1:
                raise Failure(f"{ENVOY_CONFIGURATION.name} does not say once: {line}")
            text = text.replace(line, instead)
        configuration = self.folder / "envoy.yaml"
        configuration.write_text(text)
        # Several may run on one machine; one thread is enough here.
        alone = ("--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning")
        arguments = ("--config-path", str(configuration), *alone)
        self.envoy = Daemon(
            envoy_program(), *arguments, env=service_environment(), log=self.folder / "envoy.log"
        )
        self.address = f"127.0.0.1:{port}"
        wait_until("Envoy listens", lambda: is_open(port), self.envoy)

    def kill(self, name: str) -> None:
        """Ends a node as a crash of its machine would."""
        process = self.nodes.pop(name).daemon.process
        process.kill()
        process.wait()

    def owners(self) -> dict[str, str]:
        """The sessions, each with the node that has it."""
        return {id: owner for id, owner in self.postgres.rows("SELECT session_id, owner_name FROM sessions")}

    def stop(self) -> None:
        """Ends all of it, and fails if a node ended badly or left a process behind."""
        self.envoy.stop()
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
        if hasattr(self, "envoy"):
            self.envoy.stop()
        self.ends.close()
