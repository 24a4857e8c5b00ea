"""The client for threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sessionpool.v1 import session_pool_pb2 as pb
from sessionpool.v1 import session_pool_pb2_grpc as pb_grpc

from ._channel import (
    ATTEMPTS,
    TLS,
    ChannelOptions,
    Metadata,
    Token,
    call_metadata,
    channel_options,
    check_token,
)
from ._errors import FailedCall, error_of
from ._turn import EventAssembler, Turn, TurnRequest
from ._watch import whole

Item_co = TypeVar("Item_co", covariant=True)
Response = TypeVar("Response")


class _Call(Protocol[Item_co]):
    """A server stream of grpcio."""

    def __next__(self) -> Item_co: ...
    def cancel(self) -> bool: ...


TurnCall = _Call[pb.QueryResponse | pb.AttachResponse]


class TurnStream(Iterator[pb.TurnEvent]):
    """The events of a turn. It goes on by itself when the connection is lost; who leaves it early cancels it.

    One thread at a time may read it; `cancel` may be called by any.
    """

    def __init__(
        self, open_call: Callable[[TurnRequest, float | None], TurnCall], turn: Turn, timeout: float | None
    ) -> None:
        self._open_call, self._turn = open_call, turn
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._ended = False
        self._cancelled = threading.Event()
        # Guards `_call`, so that a call that begins while the stream is cancelled is cancelled, too.
        self._lock = threading.Lock()
        self._call: TurnCall = open_call(turn.first_request, timeout)

    @property
    def session_id(self) -> str:
        """The session; of one of its own, once it has begun."""
        return self._turn.session_id

    @property
    def turn_id(self) -> str:
        """The turn, once it is known."""
        return self._turn.turn_id

    def __next__(self) -> pb.TurnEvent:
        while not self._ended:
            try:
                response = next(self._call)
            except StopIteration:
                self._ended = True
            except grpc.RpcError as raw:
                self._recover(raw)
            except BaseException:
                self.close()
                raise
            else:
                event = self._turn.take(response)
                if event is not None:
                    return event
        raise StopIteration

    def _recover(self, raw: grpc.RpcError) -> None:
        if self._ended:
            return  # Who has closed the stream is told nothing more.
        cancelled = self._cancelled.is_set()
        error = error_of(cast("FailedCall", raw), started=self._turn.started, cancelled=cancelled)
        try:
            if cancelled:
                raise error from raw
            following = self._turn.again(error)
        except BaseException:
            self._ended = True
            raise
        if following is None:
            self._ended = True
            return
        request, delay = following
        left = self._left()
        # Cancelled or too late: the call that begins then says so.
        self._cancelled.wait(delay if left is None else min(delay, left))
        with self._lock:
            self._call = self._open_call(request, self._left())
            if self._cancelled.is_set():
                self._call.cancel()

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def cancel(self) -> None:
        """Cancels the call, also while it tries to connect. Who reads the stream gets a `CancelledError`."""
        with self._lock:
            self._cancelled.set()
            self._call.cancel()

    def close(self) -> None:
        """Cancels the call if it has not ended; the stream has no more events."""
        self._ended = True
        self.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # What the constructor did not come to is not there; at the interpreter's end anything may be gone.
        with suppress(Exception):
            self.close()


class WatchStream(Iterator[pb.WatchSessionResponse]):
    """The items of a session that is followed, each event whole. Who leaves it early cancels it."""

    def __init__(self, call: _Call[pb.WatchSessionResponse]) -> None:
        self._call, self._assembler = call, EventAssembler()

    def __next__(self) -> pb.WatchSessionResponse:
        while True:
            try:
                item = whole(next(self._call), self._assembler)
            except grpc.RpcError as raw:
                raise error_of(cast("FailedCall", raw)) from raw
            if item is not None:
                return item

    def close(self) -> None:
        """Cancels the call if it has not ended."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()


class Client:
    """A connection to the service, for any number of threads."""

    def __init__(
        self,
        address: str,
        *,
        tls: TLS | None = None,
        token: Token | None = None,
        service_config: str | None = None,
        options: ChannelOptions = (),
        attempts: int = ATTEMPTS,
    ) -> None:
        """`token` may be a function, which is asked for each call. `attempts`: how often in a row a lost
        stream is taken up again.
        """
        check_token(address, tls, token)
        self._token, self._attempts = token, attempts
        all_options = channel_options(service_config, options)
        if tls is None:
            self.channel = grpc.insecure_channel(address, options=all_options)
        else:
            self.channel = grpc.secure_channel(address, tls.credentials(), options=all_options)
        self._stub: Any = pb_grpc.SessionPoolServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Closes the connection; calls that run are cancelled."""
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def query(
        self, request: pb.QueryRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> TurnStream:
        """Runs one turn and streams its events. It survives a lost connection with `on_disconnect` CONTINUE,
        and is repeated before it has begun with a `turn_id`.
        """
        return self._stream(request, timeout, metadata)

    def attach(
        self, request: pb.AttachRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> TurnStream:
        """Joins a turn that runs or has ended a moment ago."""
        return self._stream(request, timeout, metadata)

    def _stream(self, request: TurnRequest, timeout: float | None, metadata: Metadata) -> TurnStream:
        # Bound to what a call needs, and not to the client: a stream that was forgotten must end.
        stub, token = self._stub, self._token

        def open_call(asked: TurnRequest, left: float | None) -> TurnCall:
            method = stub.Query if isinstance(asked, pb.QueryRequest) else stub.Attach
            all_metadata = call_metadata(token, asked.session_id, metadata)
            return cast("TurnCall", method(asked, timeout=left, metadata=all_metadata))

        return TurnStream(open_call, Turn(request, self._attempts), timeout)

    def watch_session(
        self, request: pb.WatchSessionRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> WatchStream:
        """Follows a session over all of its turns. When it breaks off, call again with the last cursor."""
        all_metadata = call_metadata(self._token, request.session_id, metadata)
        return WatchStream(self._stub.WatchSession(request, timeout=timeout, metadata=all_metadata))

    def serve_tools(
        self,
        requests: Iterable[pb.ServeToolsRequest],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Iterator[pb.ServeToolsResponse]:
        """Offers tools for as long as the stream is open."""
        all_metadata = call_metadata(self._token, "", metadata)
        call = self._stub.ServeTools(iter(requests), timeout=timeout, metadata=all_metadata)
        try:
            yield from call
        except grpc.RpcError as raw:
            raise error_of(cast("FailedCall", raw)) from raw
        finally:
            call.cancel()

    def respond(
        self, request: pb.RespondRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.RespondResponse:
        """Answers what the CLI asks."""
        return self._call(pb.RespondResponse, "Respond", request, timeout, metadata)

    def interrupt(
        self, request: pb.InterruptRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.InterruptResponse:
        """Stops a session's turn."""
        return self._call(pb.InterruptResponse, "Interrupt", request, timeout, metadata)

    def stop_task(
        self, request: pb.StopTaskRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.StopTaskResponse:
        """Stops what works behind a session's turns."""
        return self._call(pb.StopTaskResponse, "StopTask", request, timeout, metadata)

    def interrupt_all(
        self, request: pb.InterruptAllRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.InterruptAllResponse:
        """Stops the turns of all sessions."""
        return self._call(pb.InterruptAllResponse, "InterruptAll", request, timeout, metadata)

    def get_stats(
        self, request: pb.GetStatsRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.GetStatsResponse:
        """The pool's figures."""
        return self._call(pb.GetStatsResponse, "GetStats", request, timeout, metadata)

    def get_session(
        self, request: pb.GetSessionRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.GetSessionResponse:
        """One session."""
        return self._call(pb.GetSessionResponse, "GetSession", request, timeout, metadata)

    def list_sessions(
        self, request: pb.ListSessionsRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.ListSessionsResponse:
        """A page of sessions."""
        return self._call(pb.ListSessionsResponse, "ListSessions", request, timeout, metadata)

    def update_session(
        self, request: pb.UpdateSessionRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.UpdateSessionResponse:
        """Changes a session."""
        return self._call(pb.UpdateSessionResponse, "UpdateSession", request, timeout, metadata)

    def close_session(
        self, request: pb.CloseSessionRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.CloseSessionResponse:
        """Ends a session."""
        return self._call(pb.CloseSessionResponse, "CloseSession", request, timeout, metadata)

    def health(self, service: str = "", *, timeout: float | None = 10.0) -> str:
        """What the service says of itself: `SERVING` or `NOT_SERVING`. Needs no credentials."""
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = stub.Check(request, timeout=timeout, wait_for_ready=True)
        except grpc.RpcError as raw:
            raise error_of(cast("FailedCall", raw)) from raw
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def _call(
        self, kind: type[Response], method: str, request: Message, timeout: float | None, metadata: Metadata
    ) -> Response:
        all_metadata = call_metadata(self._token, getattr(request, "session_id", ""), metadata)
        try:
            answer = getattr(self._stub, method)(request, timeout=timeout, metadata=all_metadata)
        except grpc.RpcError as raw:
            raise error_of(cast("FailedCall", raw)) from raw
        assert isinstance(answer, kind)
        return answer
