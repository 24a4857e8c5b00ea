"""What both clients make of an address and of credentials: options of the channel, and metadata of calls."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Protocol

import grpc

Metadata = Sequence[tuple[str, str | bytes]]
ChannelOptions = Sequence[tuple[str, str | int | bool]]
Token = str | Callable[[], str]

# Attempts in a row to take up a stream without a new event.
ATTEMPTS = 10
# The first and the longest wait of a connection, and when a quiet one is asked and how long that waits.
RECONNECT_MS = (200, 2000)
KEEPALIVE_MS = (30_000, 10_000)


@dataclass(frozen=True)
class TLS:
    """TLS, and with a certificate of the caller's mutual TLS. All of it PEM."""

    ca: bytes | None = None
    """The authorities that the service's certificate may be of. Default: those of the machine."""
    cert: bytes | None = None
    key: bytes | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """The same for grpcio."""
        if (self.cert is None) != (self.key is None):
            raise ValueError("a certificate needs its key, and a key its certificate")
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)


class NamesSession(Protocol):
    """A request for one session."""

    @property
    def session_id(self) -> str: ...


def default_service_config() -> str:
    """The service config that channels have by default, as JSON: `deploy/service_config.json`."""
    return resources.files("session_pool").joinpath("service_config.json").read_text()


def channel_options(
    service_config: str | None, options: ChannelOptions
) -> list[tuple[str, str | int | bool]]:
    """The options of a channel, each once: the caller's, and what it does not say."""
    first, longest = RECONNECT_MS
    interval, timeout = KEEPALIVE_MS
    own: ChannelOptions = [
        ("grpc.service_config", default_service_config() if service_config is None else service_config),
        # Channels to one address would share a connection, and what happens to one happens to all.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", first),
        ("grpc.min_reconnect_backoff_ms", longest),
        ("grpc.max_reconnect_backoff_ms", longest),
        # A connection that breaks without a word is noticed while a stream is quiet.
        ("grpc.keepalive_time_ms", interval),
        ("grpc.keepalive_timeout_ms", timeout),
        # How long a ping waits is this alone; without it grpcio waits for a minute.
        ("grpc.http2.ping_timeout_ms", timeout),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    return list((dict(own) | dict(options)).items())


def check_token(address: str, tls: TLS | None, token: Token | None) -> None:
    """Refuses to send a token where others may read it."""
    if token is not None and tls is None and not _is_loopback(address):
        raise ValueError(f"a token is sent over TLS, or to a loopback address: {address} is none")


def _is_loopback(address: str) -> bool:
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition("/")[2].rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def call_metadata(token: Token | None, session_id: str, more: Metadata) -> list[tuple[str, str | bytes]]:
    """The metadata of a call: the caller's, the session's id for proxies that route by it, and the token."""
    metadata = list(more)
    if session_id:
        metadata.append(("session-id", session_id))
    if token is not None:
        metadata.append(("authorization", f"Bearer {token if isinstance(token, str) else token()}"))
    return metadata
