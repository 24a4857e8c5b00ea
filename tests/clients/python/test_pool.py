"""Runs turns against a live service at SESSION_POOL_TARGET, whose API is the stand-in.

Every test has a session of its own. One is selected with `-k`: python -m unittest -k attach
"""

from __future__ import annotations

import os
import threading
import time
import unittest
import uuid
from collections.abc import Iterator

import grpc
from sessionpool.v1 import session_pool_pb2 as pb

from pool import Failure, Turn, connect, events

ADDRESS = os.environ["SESSION_POOL_TARGET"]
PARTIAL = pb.SessionOptions(include_partial_messages=True)
# Bound of every call: a bug in the service must not hang the tests.
TIMEOUT = 60
# A stop has to be much faster than the 20 seconds that the slow answers take.
PROMPT_STOP = 5
SLOW = "[[words 400 every 50]]"


class SessionPoolTest(unittest.TestCase):
    def setUp(self) -> None:
        self.session = f"python-{self._testMethodName}-{uuid.uuid4()}"
        channel, self.stub = connect(ADDRESS)
        second_channel, self.second = connect(ADDRESS)
        self.addCleanup(channel.close)
        self.addCleanup(second_channel.close)
        self.addCleanup(self.close_session)

    def close_session(self) -> None:
        try:
            self.stub.CloseSession(
                pb.CloseSessionRequest(session_id=self.session, forget=True), timeout=TIMEOUT
            )
        except grpc.RpcError as error:
            self.assertEqual(error.code(), grpc.StatusCode.NOT_FOUND)

    def start(
        self, prompt: str, turn_id: str = "", timeout: float = TIMEOUT
    ) -> tuple[grpc.Call, Iterator[pb.TurnEvent]]:
        request = pb.QueryRequest(session_id=self.session, prompt=prompt, turn_id=turn_id, options=PARTIAL)
        call = self.stub.Query(request, timeout=timeout)
        return call, events(call)

    def complete(self, prompt: str, turn_id: str = "") -> Turn:
        """Runs a turn to its end and checks what holds for every turn."""
        turn = Turn(list(self.start(prompt, turn_id)[1]))
        self.assertEqual([event.sequence for event in turn.events], list(range(1, len(turn.events) + 1)))
        self.assertEqual(turn.events[0].WhichOneof("kind"), "started")
        self.assertEqual(turn.started.session_id, self.session)
        self.assertEqual(turn.events[-1].WhichOneof("kind"), "result")
        self.assertFalse(turn.result.is_error, turn.result)
        return turn

    def until_text(self, stream: Iterator[pb.TurnEvent]) -> list[pb.TurnEvent]:
        """The events of a stream up to the first piece of text."""
        seen = []
        for event in stream:
            seen.append(event)
            if event.stream_event.text:
                return seen
        self.fail(f"no text in {seen}")

    def test_two_turns_share_process_and_memory(self) -> None:
        first = self.complete("My name is Ada.")
        self.assertEqual(first.started.origin, pb.TURN_ORIGIN_CREATED)
        self.assertIn('You said: "My name is Ada."', first.streamed_text)
        self.assertEqual(first.streamed_text, first.text)
        self.assertEqual(first.result.result, first.text)

        second = self.complete("What is my name?")
        self.assertEqual(second.started.origin, pb.TURN_ORIGIN_REUSED)
        self.assertEqual(second.started.client_id, first.started.client_id)
        self.assertNotEqual(second.started.turn_id, first.started.turn_id)
        self.assertIn("My name is Ada.", second.text)

    def test_event_over_the_message_limit_arrives_whole(self) -> None:
        turn = self.complete("[[deltas 5 size 1000000]]")
        self.assertEqual(len(turn.text), 5_000_000)
        # Compared by hand: a difference of megabytes is nothing to print.
        self.assertTrue(turn.text == turn.streamed_text == turn.result.result)

    def test_interrupt_from_a_second_connection(self) -> None:
        _, stream = self.start(SLOW)
        client_id = self.until_text(stream)[0].started.client_id
        began = time.monotonic()
        answer = self.second.Interrupt(
            pb.InterruptRequest(session_id=self.session, keep_session=True), timeout=TIMEOUT
        )
        self.assertTrue(answer.interrupted)
        self.assertTrue(answer.had_active_turn)
        self.assertEqual(answer.outcome, pb.INTERRUPT_OUTCOME_INTERRUPTED)
        self.assertLess(answer.elapsed.ToTimedelta().total_seconds(), PROMPT_STOP)
        self.assert_interrupted(stream)
        self.assertLess(time.monotonic() - began, PROMPT_STOP)

        after = self.complete("[[say still here]]")
        self.assertEqual(after.started.client_id, client_id)
        self.assertEqual(after.text, "still here")

    def assert_interrupted(self, stream: Iterator[pb.TurnEvent]) -> None:
        """A turn that an interrupt stops ends with a result that says so, or with an error that does."""
        try:
            last = list(stream)[-1]
        except grpc.RpcError as error:
            failure = Failure.of(error)
            self.assertEqual((failure.code, failure.reason), (grpc.StatusCode.CANCELLED, "TURN_INTERRUPTED"))
        else:
            self.assertTrue(last.result.interrupted, last)

    def test_empty_prompt_is_refused(self) -> None:
        with self.assertRaises(grpc.RpcError) as caught:
            self.complete("")
        failure = Failure.of(caught.exception)
        self.assertEqual(failure.code, grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual((failure.reason, failure.domain), ("INVALID_ARGUMENT", "sessionpool.v1"))
        self.assertIn("prompt", failure.fields)

    def test_unknown_session_is_not_found(self) -> None:
        with self.assertRaises(grpc.RpcError) as caught:
            self.stub.GetSession(pb.GetSessionRequest(session_id=self.session), timeout=TIMEOUT)
        failure = Failure.of(caught.exception)
        self.assertEqual(failure.code, grpc.StatusCode.NOT_FOUND)
        self.assertEqual((failure.reason, failure.domain), ("SESSION_NOT_FOUND", "sessionpool.v1"))
        self.assertEqual((failure.metadata or {}).get("session_id"), self.session)

    def test_stats(self) -> None:
        before = self.stub.GetStats(pb.GetStatsRequest(), timeout=TIMEOUT)
        self.complete("hello")
        stats = self.stub.GetStats(pb.GetStatsRequest(), timeout=TIMEOUT)
        self.assertTrue(stats.enabled)
        self.assertEqual(stats.total_sessions, before.total_sessions + 1)
        self.assertEqual(stats.active_sessions, before.active_sessions + 1)
        self.assertEqual(stats.max_sessions, 1000)
        self.assertEqual(stats.total_messages, before.total_messages + 1)
        self.assertEqual(stats.session_ttl.ToSeconds(), 3600)
        self.assertEqual(stats.cleanup_interval.ToSeconds(), 300)

    def test_deadline_passes_while_the_cli_is_silent(self) -> None:
        first = self.complete("hello")
        began = time.monotonic()
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.start("[[stall before-headers]]", timeout=2)[1])
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertLess(time.monotonic() - began, 3)

        self.assert_usable_at_once(first)

    def test_cancel_in_mid_stream(self) -> None:
        first = self.complete("hello")
        call, stream = self.start(SLOW)
        self.until_text(stream)
        call.cancel()
        self.assert_usable_at_once(first)

    def assert_usable_at_once(self, first: Turn) -> None:
        """The next turn runs at once, on the same process, and has nothing of the one before in it."""
        began = time.monotonic()
        after = self.complete("[[say only this]]")
        self.assertLess(time.monotonic() - began, PROMPT_STOP)
        self.assertEqual(after.started.origin, pb.TURN_ORIGIN_REUSED)
        self.assertEqual(after.started.client_id, first.started.client_id)
        self.assertEqual((after.streamed_text, after.text), ("only this", "only this"))

    def test_attach_joins_a_running_turn_from_its_start(self) -> None:
        _, stream = self.start("[[words 40 every 50]]")
        seen = self.until_text(stream)
        attached: list[pb.TurnEvent] = []

        def attach() -> None:
            request = pb.AttachRequest(
                session_id=self.session, from_sequence=1, include_partial_messages=True
            )
            attached.extend(events(self.second.Attach(request, timeout=TIMEOUT)))

        listener = threading.Thread(target=attach)
        listener.start()
        seen.extend(stream)
        listener.join(TIMEOUT)
        self.assertEqual(seen[-1].WhichOneof("kind"), "result")
        self.assertEqual(attached, seen)

    def test_retry_with_the_same_turn_id_joins(self) -> None:
        before = self.complete("hello")
        turn_id = f"turn-{uuid.uuid4()}"
        _, stream = self.start("[[words 20 every 50]]", turn_id)
        first = self.until_text(stream)
        # While the turn runs, and once it has ended.
        while_running = self.complete("[[words 20 every 50]]", turn_id)
        first.extend(stream)
        after_the_end = self.complete("[[words 20 every 50]]", turn_id)

        self.assertEqual(first[0].started.turn_id, turn_id)
        self.assertEqual(while_running.events, first)
        self.assertEqual(after_the_end.events, first)
        session = self.stub.GetSession(pb.GetSessionRequest(session_id=self.session), timeout=TIMEOUT).session
        self.assertEqual(session.message_count, 2)
        self.assertEqual(session.client_id, before.started.client_id)


if __name__ == "__main__":
    unittest.main(verbosity=2)
