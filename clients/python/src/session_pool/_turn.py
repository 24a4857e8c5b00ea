"""Where a stream of a turn stands, over all the connections that it takes: which event is next, and what to
ask for when a connection is lost. It does no I/O, so that the streams for threads and for asyncio share it.
"""

from __future__ import annotations

import random

import grpc
from sessionpool.v1 import session_pool_pb2 as pb

from ._errors import (
    SESSION_MOVED,
    SHUTTING_DOWN,
    TOOL_USE_SEEN,
    Advice,
    ConnectionLostError,
    SessionPoolError,
)

TurnRequest = pb.QueryRequest | pb.AttachRequest

_FIRST_DELAY = 0.2
_LONGEST_DELAY = 2.0
_JITTER = 0.2
# Of errors while a stream is taken up again: the service has been started anew, or has forgotten the turn.
_FORGOTTEN = {"TURN_NOT_FOUND", "SESSION_NOT_FOUND", "EVENTS_EXPIRED"}


class EventAssembler:
    """Puts events together that arrive in parts."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def take(self, part: pb.EventPart) -> pb.TurnEvent | None:
        """The whole event, with its last part."""
        if part.index == 0:
            # What is left of an event that was cut off with its connection.
            self._parts.clear()
        self._parts += part.data
        if not part.last:
            return None
        event = pb.TurnEvent.FromString(bytes(self._parts))
        self._parts.clear()
        return event


class Turn:
    """The state of a Query or an Attach."""

    def __init__(self, request: TurnRequest, attempts: int) -> None:
        # A copy: the caller may use its own again while this one may still be sent.
        self._request: TurnRequest = type(request)()
        self._request.CopyFrom(request)  # type: ignore[arg-type]
        self._attempts = attempts
        self._assembler = EventAssembler()
        self._failures = 0
        self._sequence = 0
        self._result_seen = False
        self.session_id = request.session_id
        self.turn_id = request.turn_id
        # With STEER a stream may show a turn from its middle on, which turn is not known.
        self.started = False

    @property
    def first_request(self) -> TurnRequest:
        return self._request

    def take(self, response: pb.QueryResponse | pb.AttachResponse) -> pb.TurnEvent | None:
        """The event that is complete with this response."""
        if response.HasField("part"):
            event = self._assembler.take(response.part)
            if event is None:
                return None
        else:
            event = response.event
        if event.sequence == 0:
            return event  # A heartbeat.
        self._failures = 0
        self._sequence = event.sequence
        kind = event.WhichOneof("kind")
        if kind == "started":
            self.started = True
            self.session_id, self.turn_id = event.started.session_id, event.started.turn_id
        # Behind a result another turn may begin in the same stream.
        self._result_seen = kind == "result"
        return event

    def again(self, error: SessionPoolError) -> tuple[TurnRequest, float] | None:
        """What to ask for after this error, and after how many seconds. None: the turn is over, and all of it
        was told. Raises the error where it is the caller's to decide.
        """
        if isinstance(error, ConnectionLostError) and self._result_seen:
            if self._waits_for_background():
                raise error
            return None
        request = self._next_request(error)
        self._failures += 1
        if request is None or self._failures > self._attempts:
            raise error
        return request, self._delay(error)

    def _next_request(self, error: SessionPoolError) -> TurnRequest | None:
        if not self.started and self._sequence == 0:
            repeatable = isinstance(self._request, pb.AttachRequest) or self._request.turn_id
            return self._request if repeatable and _may_be_sent_again(error) else None
        attaching = isinstance(self._request, pb.AttachRequest) and self.turn_id
        if not self.started and not attaching:
            return None
        if isinstance(error, ConnectionLostError) or _runs_elsewhere(error):
            return self._attach()
        if error.reason in _FORGOTTEN:
            error.advice = Advice.RETRY_SAME_TURN
        return None

    def _attach(self) -> pb.AttachRequest:
        """Goes on behind the last event that was delivered."""
        request = self._request
        partial = (
            request.options.include_partial_messages
            if isinstance(request, pb.QueryRequest)
            else request.include_partial_messages
        )
        attach = pb.AttachRequest(
            session_id=self.session_id,
            turn_id=self.turn_id,
            from_sequence=self._sequence + 1,
            payload=request.payload,
            include_partial_messages=partial,
        )
        if request.HasField("heartbeat_interval"):
            attach.heartbeat_interval.CopyFrom(request.heartbeat_interval)
        return attach

    def _waits_for_background(self) -> bool:
        request = self._request
        if isinstance(request, pb.AttachRequest):
            return False
        if request.on_background == pb.BACKGROUND_POLICY_UNSPECIFIED:
            return not request.session_id
        return request.on_background == pb.BACKGROUND_POLICY_WAIT

    def _delay(self, error: SessionPoolError) -> float:
        if error.retry_delay is not None:
            return error.retry_delay.total_seconds()
        delay: float = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (self._failures - 1))
        return delay * random.uniform(1 - _JITTER, 1 + _JITTER)


def _may_be_sent_again(error: SessionPoolError) -> bool:
    """Whether a request that nothing has followed may be: what it asks for runs once, by its turn id."""
    if isinstance(error, ConnectionLostError):
        return True
    safe = error.advice in (Advice.RETRY, Advice.RETRY_SAME_TURN)
    return safe and error.code == grpc.StatusCode.UNAVAILABLE


def _runs_elsewhere(error: SessionPoolError) -> bool:
    """Whether the turn may go on at another node. One that was stopped says whether a tool may have run."""
    return error.reason in (SESSION_MOVED, SHUTTING_DOWN) and TOOL_USE_SEEN not in error.metadata
