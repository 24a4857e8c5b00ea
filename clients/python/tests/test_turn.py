"""What a stream does about errors, and where it goes on, without a service."""

from __future__ import annotations

import unittest

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from session_pool import (
    TLS,
    Advice,
    AsyncClient,
    AttachRequest,
    CancelledError,
    Client,
    ConnectionLostError,
    QueryRequest,
    SessionPoolError,
    TurnInterruptedError,
    pb,
)
from session_pool._errors import DETAILS, Details, advice_of, error_of
from session_pool._turn import Turn, TurnRequest

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Failed:
    """A call that failed."""

    def __init__(
        self, code: grpc.StatusCode, reason: str = "", delay_ms: int = 0, message: str = "", **metadata: str
    ) -> None:
        self._code, self._message = code, message
        status = status_pb2.Status(code=code.value[0])
        if reason:
            status.details.append(packed(error_details_pb2.ErrorInfo(reason=reason, metadata=metadata)))
        if delay_ms:
            delay = duration_pb2.Duration(nanos=delay_ms * 1_000_000)
            status.details.append(packed(error_details_pb2.RetryInfo(retry_delay=delay)))
        self._trailers = [(DETAILS, status.SerializeToString())] if status.details else []

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._message

    def trailing_metadata(self) -> list[tuple[str, str | bytes]]:
        return [(key, value) for key, value in self._trailers]


def packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def lost() -> SessionPoolError:
    return error_of(Failed(UNAVAILABLE))


def turn(request: TurnRequest, *kinds: str, attempts: int = 3) -> Turn:
    """A turn that has delivered events of these kinds."""
    state = Turn(request, attempts)
    for sequence, kind in enumerate(kinds, start=1):
        state.take(pb.QueryResponse(event=event(sequence, kind)))
    return state


def event(sequence: int, kind: str) -> pb.TurnEvent:
    made = pb.TurnEvent(sequence=0 if kind == "heartbeat" else sequence)
    if kind == "started":
        made.started.session_id, made.started.turn_id = "s", f"turn-{sequence}"
    else:
        getattr(made, kind).SetInParent()
    return made


QUERY = QueryRequest(session_id="s", prompt="hello")


class LostConnections(unittest.TestCase):
    def test_goes_on_behind_the_last_event_that_was_delivered(self) -> None:
        request = QueryRequest(
            session_id="s",
            prompt="hello",
            payload=pb.PAYLOAD_BOTH,
            heartbeat_interval=duration_pb2.Duration(seconds=20),
            options=pb.SessionOptions(include_partial_messages=True),
        )
        following = turn(request, "started", "system", "assistant").again(lost())
        assert following is not None
        expected = AttachRequest(
            session_id="s",
            turn_id="turn-1",
            from_sequence=4,
            payload=pb.PAYLOAD_BOTH,
            include_partial_messages=True,
            heartbeat_interval=duration_pb2.Duration(seconds=20),
        )
        self.assertEqual(following[0], expected)

    def test_a_query_is_sent_again_before_it_began_only_with_a_turn_id(self) -> None:
        with self.assertRaises(ConnectionLostError):
            turn(QUERY).again(lost())
        with self.assertRaises(ConnectionLostError):
            # Nothing of the turn: it may have begun all the same.
            turn(QUERY, "heartbeat").again(lost())
        named = QueryRequest(session_id="s", prompt="hello", turn_id="t")
        following = turn(named, "heartbeat").again(lost())
        assert following is not None
        self.assertEqual(following[0], named)

    def test_a_request_that_the_caller_changes_is_sent_again_as_it_was(self) -> None:
        named = QueryRequest(session_id="s", prompt="hello", turn_id="t")
        state = turn(named)
        named.prompt = "something else"
        following = state.again(lost())
        assert following is not None
        assert isinstance(following[0], QueryRequest)
        self.assertEqual(following[0].prompt, "hello")

    def test_behind_the_result_nothing_is_missing(self) -> None:
        self.assertIsNone(turn(QUERY, "started", "result").again(lost()))

    def test_who_waits_for_background_work_is_told(self) -> None:
        waits = QueryRequest(session_id="s", prompt="hello", on_background=pb.BACKGROUND_POLICY_WAIT)
        for request in (waits, QueryRequest(prompt="hello")):
            with self.assertRaises(ConnectionLostError):
                turn(request, "started", "result").again(lost())
        keeps = QueryRequest(prompt="hello", on_background=pb.BACKGROUND_POLICY_KEEP)
        self.assertIsNone(turn(keeps, "started", "result").again(lost()))

    def test_a_second_turn_in_the_stream_is_gone_on_with_from_its_own_count(self) -> None:
        state = turn(QUERY, "started", "assistant", "result")
        state.take(pb.QueryResponse(event=event(1, "started")))
        following = state.again(lost())
        assert following is not None
        assert isinstance(following[0], AttachRequest)
        self.assertEqual((following[0].turn_id, following[0].from_sequence), ("turn-1", 2))

    def test_a_turn_that_is_seen_from_its_middle_on_has_no_name(self) -> None:
        state = Turn(QueryRequest(session_id="s", prompt="p", on_busy=pb.BUSY_POLICY_STEER), 3)
        state.take(pb.QueryResponse(event=event(7, "assistant")))
        with self.assertRaises(ConnectionLostError):
            state.again(lost())

    def test_an_attach_goes_on_as_well(self) -> None:
        state = Turn(AttachRequest(session_id="s", turn_id="t", from_sequence=5), 3)
        following = state.again(lost())
        assert following is not None
        self.assertEqual(following[0], AttachRequest(session_id="s", turn_id="t", from_sequence=5))
        state.take(pb.AttachResponse(event=event(5, "assistant")))
        following = state.again(lost())
        assert following is not None
        self.assertEqual(following[0], AttachRequest(session_id="s", turn_id="t", from_sequence=6))

    def test_it_gives_up_after_so_many_attempts_without_an_event(self) -> None:
        state = turn(QUERY, "started", attempts=2)
        state.again(lost())
        state.again(lost())
        state.take(pb.AttachResponse(event=event(2, "assistant")))
        state.again(lost())
        state.again(lost())
        with self.assertRaises(ConnectionLostError):
            state.again(lost())

    def test_waits_grow_and_have_a_bound(self) -> None:
        state = turn(QUERY, "started", attempts=9)
        delays = [following[1] for _ in range(9) if (following := state.again(lost()))]
        for delay, middle in zip(delays, [0.2, 0.4, 0.8, 1.6, 2, 2, 2, 2, 2], strict=True):
            self.assertAlmostEqual(delay, middle, delta=middle * 0.21)

    def test_a_turn_that_is_forgotten_is_the_callers_to_ask_for_again(self) -> None:
        for reason in ("TURN_NOT_FOUND", "SESSION_NOT_FOUND"):
            error = error_of(Failed(grpc.StatusCode.NOT_FOUND, reason), started=True)
            with self.assertRaises(SessionPoolError) as caught:
                turn(QUERY, "started").again(error)
            self.assertIs(caught.exception.advice, Advice.RETRY_SAME_TURN)

    def test_parts_that_were_cut_off_are_thrown_away(self) -> None:
        state = Turn(QUERY, 3)
        large = event(2, "assistant")
        large.assistant.message_id = "x" * 100
        data = large.SerializeToString()
        halves = [
            pb.EventPart(sequence=2, index=i, last=i == 1, data=d)
            for i, d in enumerate((data[:50], data[50:]))
        ]
        state.take(pb.QueryResponse(event=event(1, "started")))
        self.assertIsNone(state.take(pb.QueryResponse(part=halves[0])))
        following = state.again(lost())
        assert following is not None
        assert isinstance(following[0], AttachRequest)
        self.assertEqual(following[0].from_sequence, 2)
        self.assertIsNone(state.take(pb.AttachResponse(part=halves[0])))
        self.assertEqual(state.take(pb.AttachResponse(part=halves[1])), large)


class Errors(unittest.TestCase):
    def test_advices(self) -> None:
        for reason, tool_use_seen, started, advice in (
            ("QUEUE_FULL", None, False, Advice.RETRY),
            ("SHUTTING_DOWN", None, False, Advice.RETRY),
            ("SHUTTING_DOWN", None, True, Advice.RETRY_SAME_TURN),
            ("SHUTTING_DOWN", "true", True, Advice.NO_RETRY),
            ("SHUTTING_DOWN", "false", True, Advice.RETRY),
            ("SESSION_MOVED", None, False, Advice.RETRY_SAME_TURN),
            ("SESSION_MOVED", "false", True, Advice.RETRY),
            ("SESSION_MOVED", "true", True, Advice.NO_RETRY),
            ("CLI_EXITED", "false", True, Advice.RETRY),
            ("CLI_EXITED", "true", True, Advice.NO_RETRY),
            ("CLI_EXITED", None, True, Advice.NO_RETRY),
            ("LISTENER_TOO_SLOW", None, True, Advice.ATTACH),
            ("INVALID_ARGUMENT", None, False, Advice.NO_RETRY),
            ("A_REASON_OF_A_NEWER_SERVICE", None, False, Advice.NO_RETRY),
        ):
            metadata = {} if tool_use_seen is None else {"tool_use_seen": tool_use_seen}
            self.assertIs(advice_of(Details(reason, metadata=metadata), started=started), advice, reason)

    def test_a_turn_at_another_node_is_attached_to_and_one_that_was_stopped_is_not(self) -> None:
        for reason in ("SESSION_MOVED", "SHUTTING_DOWN"):
            elsewhere = error_of(Failed(UNAVAILABLE, reason, delay_ms=70), started=True)
            following = turn(QUERY, "started").again(elsewhere)
            assert following is not None
            self.assertIsInstance(following[0], AttachRequest)
            self.assertEqual(following[1], 0.07)
            stopped = error_of(Failed(UNAVAILABLE, reason, tool_use_seen="false"), started=True)
            with self.assertRaises(SessionPoolError):
                turn(QUERY, "started").again(stopped)

    def test_only_what_is_unavailable_is_sent_again(self) -> None:
        named = QueryRequest(session_id="s", prompt="hello", turn_id="t")
        full = error_of(Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", delay_ms=100))
        with self.assertRaises(SessionPoolError):
            turn(named).again(full)
        away = error_of(Failed(UNAVAILABLE, "STORE_UNAVAILABLE", delay_ms=100))
        self.assertEqual(turn(named).again(away), (named, 0.1))
        with self.assertRaises(SessionPoolError):
            turn(QUERY).again(away)

    def test_a_reset_is_a_lost_connection_and_a_cancelled_call_is_none(self) -> None:
        for failed in (
            Failed(grpc.StatusCode.INTERNAL, message="Received RST_STREAM with error code 2"),
            Failed(grpc.StatusCode.UNKNOWN, message="Stream removed"),
            Failed(grpc.StatusCode.CANCELLED),
        ):
            self.assertIsInstance(error_of(failed), ConnectionLostError)
        cancelled = error_of(Failed(grpc.StatusCode.CANCELLED), cancelled=True)
        self.assertIs(type(cancelled), CancelledError)
        interrupted = error_of(Failed(grpc.StatusCode.CANCELLED, "TURN_INTERRUPTED"))
        self.assertIs(type(interrupted), TurnInterruptedError)
        self.assertIs(type(error_of(Failed(grpc.StatusCode.INTERNAL, "INTERNAL"))), SessionPoolError)

    def test_details_that_cannot_be_read_say_nothing(self) -> None:
        self.assertEqual(Details.parse(b"\xff\xff\xff"), Details())


class Credentials(unittest.IsolatedAsyncioTestCase):
    async def test_a_token_goes_nowhere_in_plain_text(self) -> None:
        for kind in (Client, AsyncClient):
            for address in (
                "pool.example:50051",
                "10.0.0.1:50051",
                "dns:///pool.example:50051",
                "[2001:db8::1]:1",
            ):
                with self.assertRaises(ValueError):
                    kind(address, token="a token")
        for address in ("localhost:1", "127.0.0.1:1", "[::1]:1", "dns:///localhost:1"):
            Client(address, token="a token").close()
        Client("pool.example:50051", token="a token", tls=TLS()).close()

    async def test_a_certificate_needs_its_key(self) -> None:
        with self.assertRaises(ValueError):
            Client("pool.example:50051", tls=TLS(cert=b"a certificate"))


if __name__ == "__main__":
    unittest.main()
