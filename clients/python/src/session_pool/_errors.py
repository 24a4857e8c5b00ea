"""What calls fail with: the service's `ErrorInfo`, `RetryInfo` and `BadRequest` as exceptions, with an
advice. The table of advices is that of docs/calling.md. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DETAILS = "grpc-status-details-bin"

TOOL_USE_SEEN = "tool_use_seen"
SHUTTING_DOWN = "SHUTTING_DOWN"
SESSION_MOVED = "SESSION_MOVED"
# Nothing that may have an effect has happened.
_NOTHING_RAN = {
    "POOL_AT_CAPACITY",
    "QUEUE_FULL",
    "MEMORY_BUDGET_EXCEEDED",
    "TENANT_QUOTA_EXCEEDED",
    "SESSION_BUSY",
    "CONNECT_FAILED",
    "STORE_UNAVAILABLE",
}
# It depends on whether a tool may have run.
_CUT_OFF = {
    "CLI_EXITED",
    "MEMORY_LIMIT",
    "TASK_LIMIT_EXCEEDED",
    "WORKSPACE_LIMIT_EXCEEDED",
    SHUTTING_DOWN,
    SESSION_MOVED,
}
_EVENTS_MISSING = {"LISTENER_TOO_SLOW", "EVENTS_EXPIRED"}
# How grpcio describes a stream that was reset, where its code is not UNAVAILABLE.
_RESET = ("RST_STREAM", "Stream removed")


class Advice(StrEnum):
    """What to do about an error."""

    RETRY = "RETRY"
    """The same call may be made again, after `retry_delay` where there is one."""
    RETRY_SAME_TURN = "RETRY_SAME_TURN"
    """The same, but only with the same `turn_id`: a turn whose result was told is not run again then."""
    ATTACH = "ATTACH"
    """Events are missing here; `metadata["limit"]` says from where they are kept."""
    NO_RETRY = "NO_RETRY"
    """The same call would fail again, or do again what was done."""


@dataclass(frozen=True)
class FieldViolation:
    """A field of the request that was refused, and why."""

    field: str
    description: str


@dataclass(frozen=True)
class Details:
    """What the trailers of an error say."""

    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_delay: timedelta | None = None
    fields: tuple[FieldViolation, ...] = ()

    @classmethod
    def parse(cls, encoded: bytes) -> Details:
        """Reads a `google.rpc.Status`; what cannot be read says nothing."""
        status = status_pb2.Status()
        try:
            status.ParseFromString(encoded)
        except DecodeError:
            return cls()
        info = error_details_pb2.ErrorInfo()
        delay: timedelta | None = None
        fields: tuple[FieldViolation, ...] = ()
        for detail in status.details:
            retry, request = error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(retry):
                delay = retry.retry_delay.ToTimedelta()
            elif detail.Unpack(request):
                fields = tuple(FieldViolation(v.field, v.description) for v in request.field_violations)
            else:
                detail.Unpack(info)
        return cls(info.reason, info.domain, dict(info.metadata), delay, fields)


class SessionPoolError(Exception):
    """A call that failed. The class says the code; `reason` says more, where the service sent one."""

    def __init__(self, code: grpc.StatusCode, message: str, details: Details, advice: Advice) -> None:
        super().__init__(code, message, details, advice)
        self.code = code
        self.message = message
        self.reason = details.reason
        """The name of an `ErrorReason` without its prefix; empty where the service sent none."""
        self.domain = details.domain
        self.metadata = details.metadata
        self.retry_delay = details.retry_delay
        self.fields = details.fields
        """What is wrong with the request, with `INVALID_ARGUMENT` and `POLICY_DENIED`."""
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"


class InvalidArgumentError(SessionPoolError):
    """Fields out of their bounds."""


class PermissionDeniedError(SessionPoolError):
    """What the policy does not allow."""


class UnauthenticatedError(SessionPoolError):
    """Credentials that are missing, wrong, expired or revoked."""


class FailedPreconditionError(SessionPoolError):
    """Something has to change before the call can be made again: options, a budget, the operator's part."""


class ResourceExhaustedError(SessionPoolError):
    """A bound of the pool, the tenant or the session."""


class SessionBusyError(SessionPoolError):
    """A turn is running, and the request does not want to wait."""


class NotFoundError(SessionPoolError):
    """No such session, turn, prompt or task."""


class DeadlineExceededError(SessionPoolError):
    """A deadline has passed: the call's own, or one of the service's."""


class UnavailableError(SessionPoolError):
    """The service, or what it needs, is not there just now."""


class ConnectionLostError(UnavailableError):
    """The connection broke, or there was none: what became of the call is not known."""


class CancelledError(SessionPoolError):
    """The caller has cancelled the call."""


class TurnInterruptedError(SessionPoolError):
    """Somebody has stopped the turn before it had a result."""


class EventsMissingError(SessionPoolError):
    """Events are not kept any more, or came faster than they were read."""


_CLASSES: dict[grpc.StatusCode, type[SessionPoolError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.ABORTED: SessionBusyError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.DATA_LOSS: EventsMissingError,
    grpc.StatusCode.OUT_OF_RANGE: EventsMissingError,
}


class FailedCall(Protocol):
    """What the errors of both kinds of channels have in common."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def error_of(call: FailedCall, *, started: bool = False, cancelled: bool = False) -> SessionPoolError:
    """The exception for a failed call. `started`: whether its turn had begun; `cancelled`: by the caller."""
    code, message = call.code(), call.details() or ""
    encoded = next((value for key, value in call.trailing_metadata() or () if key == DETAILS), b"")
    details = Details.parse(encoded if isinstance(encoded, bytes) else encoded.encode())
    if not details.reason and not cancelled and _is_lost(code, message):
        return ConnectionLostError(code, message, details, Advice.RETRY_SAME_TURN)
    if details.reason == "TURN_INTERRUPTED":
        return TurnInterruptedError(code, message, details, Advice.NO_RETRY)
    return _CLASSES.get(code, SessionPoolError)(code, message, details, advice_of(details, started=started))


def _is_lost(code: grpc.StatusCode, message: str) -> bool:
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return True
    unclear = code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    return unclear and any(text in message for text in _RESET)


def advice_of(details: Details, *, started: bool) -> Advice:
    """What to do about an error of the service. `started`: whether the call's turn had begun."""
    reason, tool_use_seen = details.reason, details.metadata.get(TOOL_USE_SEEN)
    if reason in _NOTHING_RAN or (reason == SHUTTING_DOWN and not started):
        return Advice.RETRY
    if reason in _EVENTS_MISSING:
        return Advice.ATTACH
    if reason in _CUT_OFF and tool_use_seen == "false":
        return Advice.RETRY
    if reason in (SESSION_MOVED, SHUTTING_DOWN) and tool_use_seen is None:
        return Advice.RETRY_SAME_TURN
    return Advice.NO_RETRY
