"""A client of session-pool: turns on Claude CLI processes as streams of events.

`Client` is for threads, `AsyncClient` for asyncio. Messages are those of the
contract, in `pb`; those that most callers need are here by name. Failed calls raise a `SessionPoolError`.
"""

from __future__ import annotations

import uuid

from sessionpool.v1 import session_pool_pb2 as pb
from sessionpool.v1.session_pool_pb2 import (
    AttachRequest,
    InterruptRequest,
    QueryRequest,
    SessionOptions,
    TurnEvent,
)

from ._aio import AsyncClient, AsyncTurnStream, AsyncWatchStream
from ._channel import TLS, default_service_config
from ._client import Client, TurnStream, WatchStream
from ._errors import (
    Advice,
    CancelledError,
    ConnectionLostError,
    DeadlineExceededError,
    EventsMissingError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SessionBusyError,
    SessionPoolError,
    TurnInterruptedError,
    UnauthenticatedError,
    UnavailableError,
)

__all__ = [
    "TLS",
    "Advice",
    "AsyncClient",
    "AsyncTurnStream",
    "AsyncWatchStream",
    "AttachRequest",
    "CancelledError",
    "Client",
    "ConnectionLostError",
    "DeadlineExceededError",
    "EventsMissingError",
    "FailedPreconditionError",
    "FieldViolation",
    "InterruptRequest",
    "InvalidArgumentError",
    "NotFoundError",
    "PermissionDeniedError",
    "QueryRequest",
    "ResourceExhaustedError",
    "SessionBusyError",
    "SessionOptions",
    "SessionPoolError",
    "TurnEvent",
    "TurnInterruptedError",
    "TurnStream",
    "UnauthenticatedError",
    "UnavailableError",
    "WatchStream",
    "default_service_config",
    "new_turn_id",
    "pb",
    "text",
]


def new_turn_id() -> str:
    """An id for a turn, which makes a `query` safe to repeat."""
    return str(uuid.uuid4())


def text(event: TurnEvent) -> str:
    """The text of an `assistant` event; of any other nothing."""
    return "".join(block.text.text for block in event.assistant.content)
