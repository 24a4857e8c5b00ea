"""The client for asyncio. Streams and calls are as those of `Client`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import grpc
import grpc.aio
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
from ._errors import Advice, CancelledError, Details, FailedCall, error_of
from ._turn import EventAssembler, Turn, TurnRequest
from ._watch import whole

Response = TypeVar("Response")


class _Call(Protocol):
    """A server stream of grpcio."""

    async def read(self) -> object: ...
    def cancel(self) -> bool: ...


class AsyncTurnStream(AsyncIterator[pb.TurnEvent]):
    """The events of a turn. It goes on by itself when the connection is lost; who leaves it early cancels it.

    Cancelling a task that waits for an event cancels the call, as grpcio has it: so does `asyncio.wait_for`
    of one event. The deadline of the whole is `timeout`.
    """

    def __init__(
        self, open_call: Callable[[TurnRequest, float | None], _Call], turn: Turn, timeout: float | None
    ) -> None:
        self._open_call, self._turn = open_call, turn
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._ended = False
        self._cancelled = asyncio.Event()
        self._call: _Call = open_call(turn.first_request, timeout)

    @property
    def session_id(self) -> str:
        """The session; of one of its own, once it has begun."""
        return self._turn.session_id

    @property
    def turn_id(self) -> str:
        """The turn, once it is known."""
        return self._turn.turn_id

    async def __anext__(self) -> pb.TurnEvent:
        while not self._ended:
            try:
                response = await self._call.read()
            except grpc.aio.AioRpcError as raw:
                await self._recover(raw)
            except asyncio.CancelledError as raw:
                closed, self._ended = self._ended, True
                if _task_is_cancelled() or not self._cancelled.is_set():
                    raise
                if not closed:
                    raise _cancelled_error() from raw
            except BaseException:
                self.close()
                raise
            else:
                if response is grpc.aio.EOF:
                    self._ended = True
                    break
                event = self._turn.take(cast("pb.QueryResponse | pb.AttachResponse", response))
                if event is not None:
                    return event
        raise StopAsyncIteration

    async def _recover(self, raw: grpc.aio.AioRpcError) -> None:
        if self._ended:
            return  # Who has closed the stream is told nothing more.
        cancelled = self._cancelled.is_set()
        error = error_of(cast("FailedCall", raw), started=self._turn.started, cancelled=cancelled)
        try:
            if cancelled:
                raise error from raw
            following = self._turn.again(error)
            if following is not None:
                await self._wait(following[1])
        except BaseException:
            self._ended = True
            raise
        if following is None:
            self._ended = True
            return
        self._call = self._open_call(following[0], self._left())
        if self._cancelled.is_set():
            self._call.cancel()

    async def _wait(self, delay: float) -> None:
        # Cancelled or too late: the call that begins then says so.
        left = self._left()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._cancelled.wait(), delay if left is None else min(delay, left))

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def cancel(self) -> None:
        """Cancels the call, also while it tries to connect. Who reads the stream gets a `CancelledError`."""
        self._cancelled.set()
        self._call.cancel()

    def close(self) -> None:
        """Cancels the call if it has not ended; the stream has no more events."""
        self._ended = True
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # What the constructor did not come to is not there; the loop may be gone.
        with suppress(Exception):
            self.close()


def _task_is_cancelled() -> bool:
    """Whether somebody has cancelled the running task, and not the call alone."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _cancelled_error() -> CancelledError:
    return CancelledError(grpc.StatusCode.CANCELLED, "the call was cancelled", Details(), Advice.NO_RETRY)


class AsyncWatchStream(AsyncIterator[pb.WatchSessionResponse]):
    """The items of a session that is followed, each event whole. Who leaves it early cancels it."""

    def __init__(self, call: _Call) -> None:
        self._call, self._assembler = call, EventAssembler()

    async def __anext__(self) -> pb.WatchSessionResponse:
        while True:
            try:
                response = await self._call.read()
            except grpc.aio.AioRpcError as raw:
                raise error_of(cast("FailedCall", raw)) from raw
            if response is grpc.aio.EOF:
                raise StopAsyncIteration
            item = whole(cast("pb.WatchSessionResponse", response), self._assembler)
            if item is not None:
                return item

    def close(self) -> None:
        """Cancels the call if it has not ended."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()


class AsyncClient:
    """A connection to the service, for the event loop that it is made in."""

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
            self.channel = grpc.aio.insecure_channel(address, options=all_options)
        else:
            self.channel = grpc.aio.secure_channel(address, tls.credentials(), options=all_options)
        self._stub: Any = pb_grpc.SessionPoolServiceStub(self.channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Closes the connection; calls that run are cancelled."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def query(
        self, request: pb.QueryRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> AsyncTurnStream:
        """Runs one turn and streams its events. It survives a lost connection with `on_disconnect` CONTINUE,
        and is repeated before it has begun with a `turn_id`.
        """
        return self._stream(request, timeout, metadata)

    def attach(
        self, request: pb.AttachRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> AsyncTurnStream:
        """Joins a turn that runs or has ended a moment ago."""
        return self._stream(request, timeout, metadata)

    def _stream(self, request: TurnRequest, timeout: float | None, metadata: Metadata) -> AsyncTurnStream:
        # Bound to what a call needs, and not to the client: a stream that was forgotten must end.
        stub, token = self._stub, self._token

        def open_call(asked: TurnRequest, left: float | None) -> _Call:
            method = stub.Query if isinstance(asked, pb.QueryRequest) else stub.Attach
            all_metadata = call_metadata(token, asked.session_id, metadata)
            return cast("_Call", method(asked, timeout=left, metadata=all_metadata))

        return AsyncTurnStream(open_call, Turn(request, self._attempts), timeout)

    def watch_session(
        self, request: pb.WatchSessionRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> AsyncWatchStream:
        """Follows a session over all of its turns. When it breaks off, call again with the last cursor."""
        all_metadata = call_metadata(self._token, request.session_id, metadata)
        return AsyncWatchStream(self._stub.WatchSession(request, timeout=timeout, metadata=all_metadata))

    async def serve_tools(
        self,
        requests: AsyncIterable[pb.ServeToolsRequest],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> AsyncIterator[pb.ServeToolsResponse]:
        """Offers tools for as long as the stream is open."""
        all_metadata = call_metadata(self._token, "", metadata)
        call = self._stub.ServeTools(aiter(requests), timeout=timeout, metadata=all_metadata)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as raw:
            raise error_of(cast("FailedCall", raw)) from raw
        finally:
            call.cancel()

    async def respond(
        self, request: pb.RespondRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.RespondResponse:
        """Answers what the CLI asks."""
        return await self._call(pb.RespondResponse, "Respond", request, timeout, metadata)

    async def interrupt(
        self, request: pb.InterruptRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.InterruptResponse:
        """Stops a session's turn."""
        return await self._call(pb.InterruptResponse, "Interrupt", request, timeout, metadata)

    async def stop_task(
        self, request: pb.StopTaskRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.StopTaskResponse:
        """Stops what works behind a session's turns."""
        return await self._call(pb.StopTaskResponse, "StopTask", request, timeout, metadata)

    async def interrupt_all(
        self, request: pb.InterruptAllRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.InterruptAllResponse:
        """Stops the turns of all sessions."""
        return await self._call(pb.InterruptAllResponse, "InterruptAll", request, timeout, metadata)

    async def get_stats(
        self, request: pb.GetStatsRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.GetStatsResponse:
        """The pool's figures."""
        return await self._call(pb.GetStatsResponse, "GetStats", request, timeout, metadata)

    async def get_session(
        self, request: pb.GetSessionRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.GetSessionResponse:
        """One session."""
        return await self._call(pb.GetSessionResponse, "GetSession", request, timeout, metadata)

    async def list_sessions(
        self, request: pb.ListSessionsRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.ListSessionsResponse:
        """A page of sessions."""
        return await self._call(pb.ListSessionsResponse, "ListSessions", request, timeout, metadata)

    async def update_session(
        self, request: pb.UpdateSessionRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.UpdateSessionResponse:
        """Changes a session."""
        return await self._call(pb.UpdateSessionResponse, "UpdateSession", request, timeout, metadata)

    async def close_session(
        self, request: pb.CloseSessionRequest, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> pb.CloseSessionResponse:
        """Ends a session."""
        return await self._call(pb.CloseSessionResponse, "CloseSession", request, timeout, metadata)

    async def health(self, service: str = "", *, timeout: float | None = 10.0) -> str:
        """What the service says of itself: `SERVING` or `NOT_SERVING`. Needs no credentials."""
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = await stub.Check(request, timeout=timeout, wait_for_ready=True)
        except grpc.aio.AioRpcError as raw:
            raise error_of(cast("FailedCall", raw)) from raw
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def _call(
        self, kind: type[Response], method: str, request: Message, timeout: float | None, metadata: Metadata
    ) -> Response:
        all_metadata = call_metadata(self._token, getattr(request, "session_id", ""), metadata)
        try:
            answer = await getattr(self._stub, method)(request, timeout=timeout, metadata=all_metadata)
        except grpc.aio.AioRpcError as raw:
            raise error_of(cast("FailedCall", raw)) from raw
        assert isinstance(answer, kind)
        return answer
