"""A TCP proxy that cuts connections when it is told to, by HTTP.

`POST /cut` resets every connection that is open; `/cut-after/N` resets the one that passes on the N-th byte
from the server, counted from then on; `/silence` has all that is open stay open and pass nothing on;
`/refuse` closes new ones at once until `/accept`.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

CHUNK = 65536


class CuttingProxy:
    """A proxy to one address, from `with` to its end."""

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self.server = (host, int(port))
        # Guards all that follows: connections are passed on by threads of their own.
        self.lock = threading.Lock()
        self.open: set[socket.socket] = set()
        self.silent: set[socket.socket] = set()
        self.refusing = False
        # The bytes until the next cut, and then until the one after it.
        self.cuts: list[int] = []
        self.refused = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.web = ThreadingHTTPServer(("127.0.0.1", 0), control(self))
        self.control = f"http://127.0.0.1:{self.web.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.accept, daemon=True).start()
        threading.Thread(target=self.web.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.web.shutdown()
        self.web.server_close()
        # Wakes the thread that accepts, which a close alone does not.
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                refusing = self.refusing
            if refusing:
                reset(client)
                self.refused.set()
                continue
            threading.Thread(target=self.connect, args=[client], daemon=True).start()

    def connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self.server)
        except OSError:
            reset(client)
            return
        with self.lock:
            self.open |= {client, server}
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self.pass_on, args=[client, server, False], daemon=True).start()
        self.pass_on(server, client, True)

    def pass_on(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                with self.lock:
                    # It was cut, and has more to say.
                    if source not in self.open:
                        break
                    if source in self.silent:
                        continue
                allowed = self.count(len(data)) if counted else len(data)
                self.send(sink, data[:allowed])
                if allowed < len(data):
                    break
        with self.lock:
            self.open -= {source, sink}
            self.silent.discard(source)
        # Whoever reads the other one closes that.
        wake(sink)
        reset(source)

    def send(self, sink: socket.socket, data: bytes) -> None:
        """Waits for room no longer than until the connection is cut: nothing wakes a thread that sends."""
        room = select.poll()
        room.register(sink, select.POLLOUT)
        while data:
            ready = room.poll(100)
            with self.lock:
                if sink not in self.open:
                    raise ConnectionAbortedError
            if ready:
                with suppress(BlockingIOError):
                    data = data[sink.send(data, socket.MSG_DONTWAIT) :]

    def count(self, size: int) -> int:
        """How many of so many bytes may pass."""
        with self.lock:
            if not self.cuts:
                return size
            allowed = min(size, self.cuts[0])
            self.cuts[0] -= allowed
            if allowed < size:
                self.cuts.pop(0)
            return allowed

    def cut(self) -> None:
        with self.lock:
            cut, self.open = self.open, set()
        for end in cut:
            wake(end)

    def silence(self) -> None:
        with self.lock:
            self.silent |= self.open

    def cut_after(self, *counts: int) -> None:
        """Cuts behind so many bytes; then, from there on, behind so many, and so on."""
        with self.lock:
            self.cuts = list(counts)

    def refuse(self, refusing: bool) -> None:
        with self.lock:
            self.refusing = refusing
            self.refused.clear()


def wake(end: socket.socket) -> None:
    """Has the thread that reads a socket reset it. Nobody else closes it: its number would be another's while
    that thread may be about to read from it.
    """
    with suppress(OSError):
        end.shutdown(socket.SHUT_RD)


def reset(end: socket.socket) -> None:
    """Closes a socket so that the other side sees a reset."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def control(proxy: CuttingProxy) -> type[BaseHTTPRequestHandler]:
    """What tells this proxy what to do."""

    class Control(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            match self.path.strip("/").split("/"):
                case ["cut"]:
                    proxy.cut()
                case ["cut-after", count] if count.isdigit():
                    proxy.cut_after(int(count))
                case ["silence"]:
                    proxy.silence()
                case ["refuse"]:
                    proxy.refuse(True)
                case ["accept"]:
                    proxy.refuse(False)
                case _:
                    self.send_error(404)
                    return
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Requests are no news."""

    return Control
