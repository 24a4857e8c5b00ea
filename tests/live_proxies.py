"""Starts proxies in front of nodes, all on loopback, with the configurations that the documents show.

Beside live_cluster.py, which has the nodes. Each configuration is the file of deploy/ with the addresses in
it replaced, and nothing else but what several on one machine need.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from live_service import ROOT, Daemon, Failure, service_environment, wait_until

ENVOY_CONFIGURATION = ROOT / "deploy/kubernetes/overlays/cluster/envoy.yaml"
# Lines of that file, which name addresses of a Kubernetes cluster.
ENVOY_LISTENER = "address: {socket_address: {address: 0.0.0.0, port_value: 50051}}"
ENVOY_ENDPOINT = (
    "- endpoint: {address: {socket_address: {address: session-pool-headless, port_value: 50051}}}"
)
NGINX_CONFIGURATION = ROOT / "deploy/proxies/nginx.conf"
NGINX_LISTENER = "listen 0.0.0.0:50051 http2;"
# Of each node; what follows the address is kept.
NGINX_SERVERS = tuple(f"server 10.0.0.{number}:50051 " for number in (1, 2, 3))
HAPROXY_CONFIGURATION = ROOT / "deploy/proxies/haproxy.cfg"
HAPROXY_LISTENER = "bind 0.0.0.0:50051 proto h2"
HAPROXY_SERVERS = tuple(f"server node-{number} 10.0.0.{number}:50051\n" for number in (1, 2, 3))


@dataclass
class Proxy:
    """A proxy that runs, and where callers reach it."""

    name: str
    address: str
    daemon: Daemon


def free_port() -> int:
    """None of those that connections get by themselves: one of these may be taken meanwhile."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(10_000, max(first, 20_000)), 1000):
        with socket.socket() as found:
            # As servers do it: a port whose last connections are not forgotten yet is free.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if binds(found, port):
                return port
    raise Failure("no port is free")


def binds(found: socket.socket, port: int) -> bool:
    try:
        found.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def is_open(port: int) -> bool:
    with socket.socket() as tried:
        tried.settimeout(1)
        return tried.connect_ex(("127.0.0.1", port)) == 0


def envoy_program() -> Path:
    tools = (ROOT / os.environ.get("SESSION_POOL_TOOLS", "target/tools")).resolve()
    found = next(tools.glob("python/lib/python3*/site-packages/envoy/_bin/envoy"), None) or shutil.which(
        "envoy"
    )
    if found is None:
        raise Failure("Envoy is not installed; .ci/tools brings it")
    return Path(found)


def debian_program(name: str) -> Path:
    # Debian puts these where only root looks.
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise Failure(f"{name} is not installed: Debian's package `{name}` is enough; .ci/tools brings it")
    return Path(found)


def replaced(configuration: Path, lines: dict[str, str]) -> str:
    """The text of a configuration with each of these, which is there once, replaced."""
    text = configuration.read_text()
    for line, instead in lines.items():
        if text.count(line) != 1:
            raise Failure(f"{configuration.name} does not say once: {line}")
        text = text.replace(line, instead)
    return text


def start_envoy(folder: Path, nodes: list[str]) -> Proxy:
    port = free_port()
    hosts = [node.rpartition(":") for node in nodes]
    endpoints = [
        ENVOY_ENDPOINT.replace("session-pool-headless", host).replace("50051", at) for host, _, at in hosts
    ]
    listener = ENVOY_LISTENER.replace("0.0.0.0", "127.0.0.1").replace("50051", str(port))
    lines = {ENVOY_LISTENER: listener, ENVOY_ENDPOINT: ("\n" + 14 * " ").join(endpoints)}
    configuration = folder / "envoy.yaml"
    configuration.write_text(replaced(ENVOY_CONFIGURATION, lines))
    # Several may run on one machine; one thread is enough here.
    alone = ("--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning")
    arguments = ("--config-path", str(configuration), *alone)
    log = folder / "envoy.log"
    daemon = Daemon(envoy_program(), *arguments, env=service_environment(), log=log)
    return listening(Proxy("envoy", f"127.0.0.1:{port}", daemon), port)


def start_nginx(folder: Path, nodes: list[str]) -> Proxy:
    port = free_port()
    lines = {server: f"server {node} " for server, node in zip(NGINX_SERVERS, nodes, strict=True)}
    lines |= {NGINX_LISTENER: f"listen 127.0.0.1:{port} http2;"}
    # Nothing is kept there, but it wants the folders, and others than Debian's service has.
    kinds = ("client_body", "fastcgi", "proxy", "scgi", "uwsgi")
    lines |= {"http {\n": "http {\n" + "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)}
    configuration = folder / "nginx.conf"
    configuration.write_text(replaced(NGINX_CONFIGURATION, lines))
    arguments = nginx_arguments(configuration, folder)
    daemon = Daemon(debian_program("nginx"), *arguments, env=service_environment(), log=folder / "nginx.log")
    return listening(Proxy("nginx", f"127.0.0.1:{port}", daemon), port)


def nginx_arguments(configuration: Path, folder: Path) -> list[str]:
    """In the foreground, with one worker, and apart from the machine's own."""
    own = f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;"
    return ["-c", str(configuration), "-e", "stderr", "-g", own]


def start_haproxy(folder: Path, nodes: list[str]) -> Proxy:
    port = free_port()
    lines = {
        server: server.replace(server.split()[2], node)
        for server, node in zip(HAPROXY_SERVERS, nodes, strict=True)
    }
    lines |= {HAPROXY_LISTENER: HAPROXY_LISTENER.replace("0.0.0.0:50051", f"127.0.0.1:{port}")}
    configuration = folder / "haproxy.cfg"
    configuration.write_text(replaced(HAPROXY_CONFIGURATION, lines))
    arguments = ("-db", "-f", str(configuration))
    log = folder / "haproxy.log"
    daemon = Daemon(debian_program("haproxy"), *arguments, env=service_environment(), log=log)
    return listening(Proxy("haproxy", f"127.0.0.1:{port}", daemon), port)


def check_configurations(folder: Path) -> None:
    """Has nginx and HAProxy read the files of deploy/ as they stand; a warning is a mistake."""
    commands = {
        "nginx": ["-t", "-q", *nginx_arguments(NGINX_CONFIGURATION, folder)],
        "haproxy": ["-c", "-q", "-f", str(HAPROXY_CONFIGURATION)],
    }
    for name, arguments in commands.items():
        command = [str(debian_program(name)), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or done.stderr:
            raise Failure(f"{' '.join(command)}: {done.stderr.strip()}")


def listening(proxy: Proxy, port: int) -> Proxy:
    try:
        wait_until(f"{proxy.name} listens", lambda: is_open(port), proxy.daemon)
    except BaseException:
        proxy.daemon.stop()
        raise
    return proxy


# What starts each of them: it takes a folder of its own, and the nodes' addresses.
PROXIES = {"envoy": start_envoy, "nginx": start_nginx, "haproxy": start_haproxy}
