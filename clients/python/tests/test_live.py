"""What only a live service shows: it is killed in mid-stream, readers are slow, leave early, or are many.

The service is one of each test's own, on the scripted CLI, with a proxy in front that cuts connections.
"""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import session_pool
from session_pool import (
    Advice,
    AsyncClient,
    AttachRequest,
    CancelledError,
    Client,
    DeadlineExceededError,
    InterruptRequest,
    NotFoundError,
    QueryRequest,
    TurnEvent,
    TurnStream,
    new_turn_id,
    pb,
    text,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests"))

from cutting_proxy import CuttingProxy
from live_service import SERVICE, Daemon, listening_address, service_environment

PROGRAMS = Path(os.environ["SESSION_POOL_PROGRAMS"]).resolve()
LIMIT = 30.0
PROMPT_STOP = 15.0
HANG = "#!fake\nsay one\nhang"
CONTINUE = pb.DISCONNECT_POLICY_CONTINUE


class Scripted:
    """A service on the scripted CLI that can be killed and started again at its address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        settings = {
            "SERVER__LISTEN": self.address,
            "CLI__PATH": str(PROGRAMS / "fake-claude"),
            "CLI__SANDBOX": "process-tree",
            "POLICY__TOOL_SERVERS": "true",
            "SERVER__DRAIN_TIMEOUT": "2s",
            # A turn's events in files go when they were sent, arrived or not.
            "POOL__TURN_BUFFER_BYTES": "64MiB",
            "STATE_DIR": str(self.folder / "state"),
            "LOG__FORMAT": "json",
        }
        env = service_environment() | {f"SESSION_POOL__{key}": value for key, value in settings.items()}
        self.daemon = Daemon(PROGRAMS / SERVICE, "serve", env=env, log=self.folder / "service.log")
        self.address = self.daemon.wait_for(listening_address)
        self.daemon.wait_for(lambda line: line if '"message":"ready"' in line else None)

    def kill(self) -> None:
        self.daemon.process.kill()
        self.daemon.process.wait()


class Live(unittest.IsolatedAsyncioTestCase):
    """Each test has a session of its own, named after it."""

    service: Scripted
    folder: tempfile.TemporaryDirectory[str]

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory(prefix="session-pool-python-client-")
        cls.service = Scripted(Path(cls.folder.name))

    @classmethod
    def tearDownClass(cls) -> None:
        cls.service.daemon.stop()
        cls.folder.cleanup()

    def setUp(self) -> None:
        self.session = self.id().rpartition(".")[2]
        self.pool = Client(self.service.address)
        self.addCleanup(self.pool.close)

    def ask(self, prompt: str, **more: str | pb.DisconnectPolicy) -> TurnStream:
        request = QueryRequest(session_id=self.session, prompt=prompt, **more)  # type: ignore[arg-type]
        return self.pool.query(request, timeout=LIMIT)

    def until_one(self, stream: Iterator[TurnEvent]) -> list[TurnEvent]:
        seen = []
        for event in stream:
            seen.append(event)
            if text(event) == "one":
                return seen
        self.fail("the text did not come")

    def usable_at_once(self) -> None:
        began = time.monotonic()
        with Client(self.service.address) as other:
            request = QueryRequest(session_id=self.session, prompt="hello")
            self.assertEqual([*other.query(request, timeout=LIMIT)][-1].result.result, "echo: hello")
        self.assertLess(time.monotonic() - began, PROMPT_STOP)

    def through_proxy(self) -> CuttingProxy:
        proxy = self.enterContext(CuttingProxy(self.service.address))
        self.pool = self.enterContext(Client(proxy.address))
        return proxy

    def test_a_service_that_is_killed_and_started_again_has_forgotten_the_turn(self) -> None:
        turn_id = new_turn_id()
        stream = self.ask(HANG, turn_id=turn_id, on_disconnect=CONTINUE)
        self.until_one(stream)
        self.service.kill()
        self.service.start()
        with self.assertRaises(NotFoundError) as caught:
            list(stream)
        self.assertIs(caught.exception.advice, Advice.RETRY_SAME_TURN)
        # The caller's to decide: here nothing of it mattered.
        events = [*self.ask("hello", turn_id=turn_id)]
        self.assertEqual((events[0].started.turn_id, events[-1].result.result), (turn_id, "echo: hello"))
        self.service.kill()
        self.service.start()
        # What was told is kept, and is not run again.
        again = [*self.ask("hello", turn_id=turn_id)]
        self.assertEqual([event.WhichOneof("kind") for event in again], ["started", "result"])
        self.assertEqual(again[-1].result.result, "echo: hello")

    async def test_the_same_with_asyncio(self) -> None:
        async with AsyncClient(self.service.address) as pool:
            request = QueryRequest(session_id=self.session, prompt=HANG, on_disconnect=CONTINUE)
            stream = pool.query(request, timeout=LIMIT)
            async for event in stream:
                if text(event) == "one":
                    break
            self.service.kill()
            await asyncio.to_thread(self.service.start)
            with self.assertRaises(NotFoundError):
                async for event in stream:
                    self.fail(f"another event: {event}")

    def test_a_turn_that_the_service_interrupts_says_so(self) -> None:
        proxy = self.through_proxy()
        stream = self.ask(HANG)
        self.until_one(stream)
        proxy.cut()
        with suppress(session_pool.TurnInterruptedError):
            self.assertTrue([*stream][-1].result.interrupted)

    def test_a_service_that_stops_is_asked_again(self) -> None:
        running = self.ask("#!fake\nsay one\nhang")
        self.until_one(running)
        self.service.daemon.process.terminate()
        while self.pool.health() == "SERVING":
            time.sleep(0.02)
        # It takes no new turn: a request with a name waits for the next service.
        asked = QueryRequest(session_id=f"{self.session}-new", prompt="hello", turn_id=new_turn_id())
        stream = self.pool.query(asked, timeout=LIMIT)
        with ThreadPoolExecutor(1) as reader:
            events = reader.submit(list[TurnEvent], stream)
            # What does not end in `server.drain_timeout` is cut off.
            self.assertTrue([*running][-1].result.interrupted)
            self.service.daemon.process.wait(LIMIT)
            self.service.start()
            self.assertEqual(events.result(LIMIT)[-1].result.result, "echo: hello")

    def test_a_connection_that_is_silently_gone(self) -> None:
        proxy = self.enterContext(CuttingProxy(self.service.address))
        soon = [("grpc.keepalive_time_ms", 1000), ("grpc.http2.ping_timeout_ms", 1000)]
        self.pool = self.enterContext(Client(proxy.address, options=soon))
        stream = self.ask("#!fake\nsay one\nsleep 500\nsay two", on_disconnect=CONTINUE)
        seen = self.until_one(stream)
        proxy.silence()
        seen += stream
        self.assertEqual([text(event) for event in seen if text(event)], ["one", "two"])

    def test_many_cuts(self) -> None:
        proxy = self.through_proxy()
        stream = self.ask("#!fake\n" + "say one\nsleep 100\n" * 6, on_disconnect=CONTINUE)
        seen = []
        for event in stream:
            seen.append(event)
            if text(event):
                proxy.cut()
        self.assertEqual([event.sequence for event in seen], list(range(1, len(seen) + 1)))
        self.assertEqual([text(event) for event in seen if text(event)], ["one"] * 6)
        self.assertFalse(seen[-1].result.is_error)

    def test_a_large_event_that_is_cut_twice(self) -> None:
        proxy = self.through_proxy()
        stream = self.ask("#!fake\nsay one\nsleep 200\nbig 10000000\nsay end", on_disconnect=CONTINUE)
        seen = self.until_one(stream)
        proxy.cut_after(3_300_000, 6_500_000)
        seen += stream
        self.assertEqual(proxy.cuts, [])
        self.assertEqual([event.sequence for event in seen], list(range(1, len(seen) + 1)))
        self.assertEqual(len([event for event in seen if event.ByteSize() > 9_000_000]), 1)

    def test_a_deadline_is_of_all_connections_together(self) -> None:
        proxy = self.through_proxy()
        self.usable_at_once()  # On a process that is there the text comes in time.
        request = QueryRequest(session_id=self.session, prompt=HANG, on_disconnect=CONTINUE)
        began = time.monotonic()
        stream = self.pool.query(request, timeout=3)
        self.until_one(stream)
        proxy.refuse(True)
        proxy.cut()
        with self.assertRaises(DeadlineExceededError):
            list(stream)
        self.assertLess(time.monotonic() - began, 5.5)
        self.interrupt()

    def interrupt(self) -> None:
        with Client(self.service.address) as other:
            other.interrupt(InterruptRequest(session_id=self.session))

    def test_a_slow_reader_misses_nothing(self) -> None:
        stream = self.ask("#!fake\nsay one\nframes 1500 4000", on_disconnect=CONTINUE)
        seen = self.until_one(stream)
        # All of it is said before more is read.
        while self.pool.get_session(pb.GetSessionRequest(session_id=self.session)).session.running_turn_id:
            time.sleep(0.02)
        seen += stream
        self.assertEqual([event.sequence for event in seen], list(range(1, len(seen) + 1)))
        self.assertGreater(len(seen), 1500)
        self.assertEqual(seen[-1].WhichOneof("kind"), "result")

    def test_a_stream_in_a_cycle_ends_with_it(self) -> None:
        holder: dict[str, object] = {}
        stream = self.ask(HANG)
        self.until_one(stream)
        holder["itself"], holder["stream"] = holder, stream
        del stream, holder
        gc.collect()
        self.usable_at_once()

    def test_a_stream_that_an_error_leaves_is_cancelled(self) -> None:
        with self.assertRaises(ZeroDivisionError):
            for event in self.ask(HANG):
                if text(event) == "one":
                    _ = 1 // 0
        self.usable_at_once()

    def test_another_thread_cancels_while_the_stream_waits(self) -> None:
        stream = self.ask(HANG)
        self.until_one(stream)
        threading.Timer(0.1, stream.cancel).start()
        with self.assertRaises(CancelledError):
            next(stream)
        with self.assertRaises(StopIteration):
            next(stream)
        self.usable_at_once()

    def test_a_stream_that_another_thread_closes_has_no_more_events(self) -> None:
        stream = self.ask(HANG)
        self.until_one(stream)
        threading.Timer(0.1, stream.close).start()
        self.assertEqual([*stream], [])
        self.usable_at_once()

    async def test_the_same_of_another_task(self) -> None:
        async with AsyncClient(self.service.address) as pool:
            stream = pool.query(QueryRequest(session_id=self.session, prompt=HANG), timeout=LIMIT)
            async for event in stream:
                if text(event) == "one":
                    break
            asyncio.get_running_loop().call_later(0.1, stream.close)
            self.assertEqual([event async for event in stream], [])
        await asyncio.to_thread(self.usable_at_once)

    def test_a_client_that_is_closed_ends_its_streams(self) -> None:
        stream = self.ask(HANG)
        self.until_one(stream)
        threading.Timer(0.1, self.pool.close).start()
        with self.assertRaises((session_pool.SessionPoolError, ValueError)):
            next(stream)
        self.usable_at_once()

    def test_many_streams_on_one_connection(self) -> None:
        whole = [*self.ask("hello")]
        request = AttachRequest(session_id=self.session, turn_id=whole[0].started.turn_id)
        streams = [self.pool.attach(request, timeout=LIMIT) for _ in range(200)]
        self.assertTrue(all([*stream] == whole for stream in streams))

    async def test_a_task_that_is_cancelled_cancels_its_call(self) -> None:
        async with AsyncClient(self.service.address) as pool:
            one = asyncio.Event()

            async def read() -> None:
                request = QueryRequest(session_id=self.session, prompt=HANG)
                async for event in pool.query(request, timeout=LIMIT):
                    if text(event) == "one":
                        one.set()

            task = asyncio.create_task(read())
            await asyncio.wait_for(one.wait(), LIMIT)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(self.usable_at_once)

    async def test_a_task_is_cancelled_while_its_stream_connects(self) -> None:
        with CuttingProxy(self.service.address) as proxy:
            async with AsyncClient(proxy.address) as pool:
                request = QueryRequest(session_id=self.session, prompt=HANG, on_disconnect=CONTINUE)
                stream = pool.query(request, timeout=LIMIT)
                async for event in stream:
                    if text(event) == "one":
                        break
                proxy.refuse(True)
                proxy.cut()
                task = asyncio.create_task(anext(stream))
                await asyncio.to_thread(proxy.refused.wait, LIMIT)
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task
        await asyncio.to_thread(self.interrupt)

    async def test_leaving_a_stream_with_asyncio_cancels_it(self) -> None:
        async with AsyncClient(self.service.address) as pool:
            request = QueryRequest(session_id=self.session, prompt=HANG)
            with self.assertRaises(ZeroDivisionError):
                async for event in pool.query(request, timeout=LIMIT):
                    if text(event) == "one":
                        _ = 1 // 0
            await asyncio.to_thread(self.usable_at_once)

    def test_a_session_that_is_followed_has_whole_events(self) -> None:
        self.assertEqual([*self.ask("hello")][-1].result.result, "echo: hello")
        with self.pool.watch_session(
            pb.WatchSessionRequest(session_id=self.session), timeout=LIMIT
        ) as watched:
            for item in watched:
                if item.phase == pb.WATCH_PHASE_LIVE:
                    break
            self.assertEqual([*self.ask("#!fake\nbig 5000000\nsay end")][-1].result.result, "end")
            events = (item.event.event for item in watched if item.HasField("event"))
            large = next(event for event in events if event.HasField("assistant"))
            self.assertGreater(large.ByteSize(), 4 * 1024 * 1024)

    def test_tools_are_offered_and_called(self) -> None:
        said: queue.SimpleQueue[pb.ServeToolsRequest] = queue.SimpleQueue()
        said.put(pb.ServeToolsRequest(register=offer("shop", self.session)))
        prompt = '#!fake\nmcp shop price {"item":"tea"}\nsay done'
        options = pb.SessionOptions(tool_servers=["shop"])
        request = QueryRequest(session_id=self.session, prompt=prompt, options=options)
        told = self.pool.serve_tools(iter(said.get, None), timeout=LIMIT)
        self.assertTrue(next(told).HasField("registered"))
        stream = self.pool.query(request, timeout=LIMIT)
        call = next(told).call
        self.assertEqual(call.arguments_json, '{"item":"tea"}')
        said.put(pb.ServeToolsRequest(result=answer(call)))
        events = [*stream]
        self.assertIn("three", str(events))
        self.assertEqual(events[-1].result.result, "done")

    async def test_tools_are_offered_and_called_with_asyncio(self) -> None:
        said: asyncio.Queue[pb.ServeToolsRequest] = asyncio.Queue()
        said.put_nowait(pb.ServeToolsRequest(register=offer("stall", self.session)))

        async def requests() -> AsyncIterator[pb.ServeToolsRequest]:
            while True:
                yield await said.get()

        prompt = '#!fake\nmcp stall price {"item":"tea"}\nsay done'
        options = pb.SessionOptions(tool_servers=["stall"])
        request = QueryRequest(session_id=self.session, prompt=prompt, options=options)
        async with AsyncClient(self.service.address) as pool:
            told = pool.serve_tools(requests(), timeout=LIMIT)
            self.assertTrue((await anext(told)).HasField("registered"))
            stream = pool.query(request, timeout=LIMIT)
            call = (await anext(told)).call
            said.put_nowait(pb.ServeToolsRequest(result=answer(call)))
            events = [event async for event in stream]
        self.assertIn("three", str(events))
        self.assertEqual(events[-1].result.result, "done")


def offer(server: str, session: str) -> pb.RegisterTools:
    price = pb.Tool(name="price", description="What a thing costs.")
    return pb.RegisterTools(server=server, tools=[price], sessions=pb.ToolSessions(ids=[session]))


def answer(call: pb.ToolCall) -> pb.ToolResult:
    return pb.ToolResult(call_id=call.call_id, content=[pb.ToolContent(text="three")])


if __name__ == "__main__":
    unittest.main()
