"""A small client of the session pool: turns as event streams, errors as reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sessionpool.v1 import session_pool_pb2 as pb
from sessionpool.v1 import session_pool_pb2_grpc as pb_grpc


def connect(address: str) -> tuple[grpc.Channel, pb_grpc.SessionPoolServiceStub]:
    """Opens a connection of its own, which channels to one address would otherwise share."""
    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    return channel, pb_grpc.SessionPoolServiceStub(channel)  # type: ignore[no-untyped-call]


def events(stream: Iterable[pb.QueryResponse | pb.AttachResponse]) -> Iterator[pb.TurnEvent]:
    """The events of a stream, with those that arrive in parts put together."""
    parts = bytearray()
    for response in stream:
        if response.HasField("event"):
            yield response.event
            continue
        parts += response.part.data
        if response.part.last:
            yield pb.TurnEvent.FromString(bytes(parts))
            parts.clear()


@dataclass
class Turn:
    """What arrived of a turn, as far as a test cares."""

    events: list[pb.TurnEvent]

    @property
    def started(self) -> pb.TurnStarted:
        return self.events[0].started

    @property
    def result(self) -> pb.TurnResult:
        return self.events[-1].result

    @property
    def streamed_text(self) -> str:
        """The text as it arrived, piece by piece."""
        return "".join(e.stream_event.text for e in self.events if e.WhichOneof("kind") == "stream_event")

    @property
    def text(self) -> str:
        """The text of the model's whole messages."""
        messages = (e.assistant for e in self.events if e.WhichOneof("kind") == "assistant")
        return "".join(block.text.text for message in messages for block in message.content)


@dataclass
class Failure:
    """How a call failed: its code, and the details of the rich error model."""

    code: grpc.StatusCode
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] | None = None
    fields: tuple[str, ...] = ()
    # Seconds after which the same call makes sense again.
    retry_delay: float | None = None

    @classmethod
    def of(cls, error: grpc.RpcError) -> Failure:
        failure = cls(error.code())
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                failure.reason, failure.domain = info.reason, info.domain
                failure.metadata = dict(info.metadata)
            elif detail.Unpack(request):
                failure.fields = tuple(violation.field for violation in request.field_violations)
            elif detail.Unpack(retry):
                failure.retry_delay = retry.retry_delay.ToMilliseconds() / 1000
        return failure
