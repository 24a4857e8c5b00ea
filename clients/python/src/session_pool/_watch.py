"""Items of a session that is followed, with events that arrive in parts put together."""

from __future__ import annotations

from sessionpool.v1 import session_pool_pb2 as pb

from ._turn import EventAssembler


def whole(item: pb.WatchSessionResponse, assembler: EventAssembler) -> pb.WatchSessionResponse | None:
    """The item; of one in parts the whole, with the last of them."""
    if not item.HasField("part"):
        return item
    event = assembler.take(item.part.part)
    if event is None:
        return None
    watched = pb.WatchedEvent(turn_id=item.part.turn_id, event=event, cursor=item.part.cursor)
    return pb.WatchSessionResponse(event=watched)
