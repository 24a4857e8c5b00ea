"""The conformance program of clients/CONFORMANCE.md: `conformance.py threads` or `conformance.py asyncio`.

The steps are written once, for asyncio; the client for threads is called in threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import cast

import grpc
import session_pool
from session_pool import TLS, Advice, AttachRequest, InterruptRequest, QueryRequest, TurnEvent, pb, text

LIMIT = 30.0
PROMPT_STOP = 5.0
GRUESSE = 'Grüße, 世界 🦀 e\u0301 \\ "'
HANG = "#!fake\nsay one\nhang"
NUMBERS = (
    '#!fake\nraw {"type":"assistant","message":{"id":"msg_1","type":"message","role":"assistant","model":"m",'
    '"content":[{"type":"tool_use","id":"toolu_1","name":"T","input":{"n":12345678901234567890,"f":0.1}}],'
    '"usage":{"input_tokens":9007199254740993,"output_tokens":18446744073709551615}},'
    '"parent_tool_use_id":null,"session_id":"00000000-0000-4000-8000-000000000000",'
    '"uuid":"00000000-0000-4000-8000-000000000001"}'
)
CONTINUE = pb.DISCONNECT_POLICY_CONTINUE

numbers = count(1)


def given(name: str) -> str:
    return os.environ[f"CONFORMANCE_{name}"]


def new_session() -> str:
    return f"{given('RUN')}-{next(numbers)}"


class Threaded:
    """The client for threads as if it were the one for asyncio."""

    def __init__(self, client: session_pool.Client) -> None:
        self.client = client

    def query(self, request: QueryRequest, timeout: float | None = None) -> ThreadedStream:
        return ThreadedStream(self.client.query(request, timeout=timeout))

    def attach(self, request: AttachRequest, timeout: float | None = None) -> ThreadedStream:
        return ThreadedStream(self.client.attach(request, timeout=timeout))

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        method = getattr(self.client, name)

        async def call(*arguments: object, **more: object) -> object:
            return await asyncio.to_thread(method, *arguments, **more)

        return call


class ThreadedStream:
    """A stream for threads as if it were one for asyncio."""

    def __init__(self, stream: session_pool.TurnStream) -> None:
        self.stream = stream

    def __aiter__(self) -> ThreadedStream:
        return self

    async def __anext__(self) -> TurnEvent:
        event = await asyncio.to_thread(next, self.stream, None)
        if event is None:
            raise StopAsyncIteration
        return event

    def cancel(self) -> None:
        self.stream.cancel()


@asynccontextmanager
async def client(
    address: str, tls: TLS | None = None, token: str | None = None
) -> AsyncIterator[session_pool.AsyncClient]:
    if sys.argv[1] == "asyncio":
        connection = session_pool.AsyncClient(address, tls=tls, token=token)
    else:
        threaded = Threaded(session_pool.Client(address, tls=tls, token=token))
        connection = cast("session_pool.AsyncClient", threaded)
    try:
        yield connection
    finally:
        await connection.close()


def plain() -> AbstractAsyncContextManager[session_pool.AsyncClient]:
    return client(given("PLAIN"))


def through_proxy() -> AbstractAsyncContextManager[session_pool.AsyncClient]:
    return client(given("PROXY"))


async def tell_proxy(what: str) -> None:
    url = f"{given('PROXY_CONTROL')}/{what}"
    await asyncio.to_thread(urllib.request.urlopen, urllib.request.Request(url, method="POST"))


def check(holds: object, what: object) -> None:
    if not holds:
        raise AssertionError(what)


def whole(events: list[TurnEvent], session: str) -> TurnEvent:
    """Checks what holds for every turn that ended well; returns its result."""
    check([event.sequence for event in events] == list(range(1, len(events) + 1)), "sequences have gaps")
    check(events[0].started.session_id == session, "it does not begin with `started`")
    last = events[-1]
    check(last.WhichOneof("kind") == "result" and not last.result.is_error, f"it ends with {last}")
    return last


async def turn(
    pool: session_pool.AsyncClient, prompt: str, session: str = "", turn_id: str = ""
) -> list[TurnEvent]:
    session = session or new_session()
    request = QueryRequest(session_id=session, prompt=prompt, turn_id=turn_id)
    stream = pool.query(request, timeout=LIMIT)
    events = [event async for event in stream]
    whole(events, session)
    return events


async def until_one(stream: session_pool.AsyncTurnStream) -> list[TurnEvent]:
    """The events up to the text `one`."""
    seen = []
    async for event in stream:
        seen.append(event)
        if text(event) == "one":
            return seen
    raise AssertionError("the text did not come")


async def failing(call: Awaitable[object]) -> session_pool.SessionPoolError:
    try:
        answer = await call
    except session_pool.SessionPoolError as error:
        return error
    raise AssertionError(f"no error, but {answer}")


async def rest(stream: session_pool.AsyncTurnStream) -> list[TurnEvent]:
    return [event async for event in stream]


async def stream() -> None:
    async with plain() as pool:
        events = await turn(pool, "hello")
        check(events[-1].result.result == "echo: hello", events[-1])
        check("".join(text(event) for event in events) == "echo: hello", "another text")


async def text_intact() -> None:
    async with plain() as pool:
        events = await turn(pool, GRUESSE)
        check(events[-1].result.result == f"echo: {GRUESSE}", events[-1].result.result)


async def numbers_intact() -> None:
    async with plain() as pool:
        messages = [event.assistant for event in await turn(pool, NUMBERS) if event.HasField("assistant")]
        check(messages, "no message")
        usage = messages[0].usage
        check(usage.input_tokens == 9007199254740993, usage)
        check(usage.output_tokens == 18446744073709551615, usage)
        tool = messages[0].content[0].tool_use
        check(tool.input_json == '{"n":12345678901234567890,"f":0.1}', tool)


def check_large(events: list[TurnEvent]) -> None:
    large = [event for event in events if event.ByteSize() > 4 * 1024 * 1024]
    check([event.WhichOneof("kind") for event in large] == ["assistant"], f"{len(large)} large events")
    check(len(text(large[0])) > 4_900_000, "the text was cut")


async def parts() -> None:
    async with plain() as pool:
        # The result repeats the text, unless another text follows it.
        check_large(await turn(pool, "#!fake\nbig 5000000\nsay end"))


async def usable_at_once(pool: session_pool.AsyncClient, session: str) -> None:
    began = time.monotonic()
    events = await turn(pool, "hello", session)
    check(events[-1].result.result == "echo: hello", events[-1])
    check(time.monotonic() - began < PROMPT_STOP, "the session was busy")


async def cancel() -> None:
    async with plain() as pool:
        session = new_session()
        asked = pool.query(QueryRequest(session_id=session, prompt=HANG), timeout=LIMIT)
        await until_one(asked)
        asked.cancel()
        error = await failing(rest(asked))
        check(isinstance(error, session_pool.CancelledError), repr(error))
        await usable_at_once(pool, session)


async def dropped() -> None:
    async with plain() as pool:
        session = new_session()

        async def leave() -> None:
            async for event in pool.query(QueryRequest(session_id=session, prompt=HANG), timeout=LIMIT):
                if text(event) == "one":
                    break

        await leave()
        await usable_at_once(pool, session)


async def deadline() -> None:
    async with plain() as pool:
        began = time.monotonic()
        request = QueryRequest(session_id=new_session(), prompt="#!fake\nhang")
        error = await failing(rest(pool.query(request, timeout=1)))
        check(isinstance(error, session_pool.DeadlineExceededError), repr(error))
        check(0.9 < time.monotonic() - began < 4, f"after {time.monotonic() - began} s")


async def interrupt() -> None:
    async with plain() as pool, plain() as second:
        session = new_session()
        asked = pool.query(QueryRequest(session_id=session, prompt=HANG), timeout=LIMIT)
        await until_one(asked)
        answer = await second.interrupt(InterruptRequest(session_id=session, keep_session=True))
        check(answer.interrupted and answer.had_active_turn, answer)
        check(answer.outcome == pb.INTERRUPT_OUTCOME_INTERRUPTED, answer)
        try:
            check((await rest(asked))[-1].result.interrupted, "the result says nothing of it")
        except session_pool.TurnInterruptedError as error:
            check(error.reason == "TURN_INTERRUPTED", repr(error))


async def error_info() -> None:
    async with plain() as pool:
        session = new_session()
        error = await failing(pool.get_session(pb.GetSessionRequest(session_id=session)))
        check(isinstance(error, session_pool.NotFoundError), repr(error))
        check(error.code == grpc.StatusCode.NOT_FOUND, error.code)
        check((error.reason, error.domain) == ("SESSION_NOT_FOUND", "sessionpool.v1"), repr(error))
        check(error.metadata.get("session_id") == session, error.metadata)
        check(error.advice is Advice.NO_RETRY, error.advice)


async def bad_request() -> None:
    async with plain() as pool:
        error = await failing(rest(pool.query(QueryRequest(session_id=new_session()))))
        check(isinstance(error, session_pool.InvalidArgumentError), repr(error))
        check(error.reason == "INVALID_ARGUMENT", repr(error))
        check("prompt" in [violation.field for violation in error.fields], error.fields)


async def retry_info() -> None:
    async with plain() as pool:
        session = new_session()
        running = pool.query(QueryRequest(session_id=session, prompt=HANG), timeout=LIMIT)
        await until_one(running)
        waiting = pool.query(QueryRequest(session_id=session, prompt="hello"), timeout=LIMIT)
        events = asyncio.create_task(rest(waiting))
        # Nothing tells a caller that a turn waits but the session itself.
        while True:
            answer = await pool.get_session(pb.GetSessionRequest(session_id=session))
            if answer.session.queued_turns == 1:
                break
            await asyncio.sleep(0.02)
        third = pool.query(QueryRequest(session_id=session, prompt="hello"), timeout=LIMIT)
        error = await failing(rest(third))
        check(isinstance(error, session_pool.ResourceExhaustedError), repr(error))
        check(error.reason == "QUEUE_FULL" and error.advice is Advice.RETRY, repr(error))
        check(error.retry_delay is not None and error.retry_delay.total_seconds() > 0, error.retry_delay)
        await pool.interrupt(InterruptRequest(session_id=session))
        check(
            isinstance(await failing(events), session_pool.TurnInterruptedError), "the second was not stopped"
        )


async def attach() -> None:
    async with through_proxy() as pool:
        session = new_session()
        prompt = "#!fake\nsay one\nsleep 500\nsay two"
        request = QueryRequest(session_id=session, prompt=prompt, on_disconnect=CONTINUE)
        asked = pool.query(request, timeout=LIMIT)
        seen = await until_one(asked)
        await tell_proxy("cut")
        seen += await rest(asked)
        whole(seen, session)
        check([text(event) for event in seen if text(event)] == ["one", "two"], "other texts")


async def attach_parts() -> None:
    async with through_proxy() as pool:
        session = new_session()
        prompt = "#!fake\nsay one\nsleep 300\nbig 5000000\nsay end"
        request = QueryRequest(session_id=session, prompt=prompt, on_disconnect=CONTINUE)
        asked = pool.query(request, timeout=LIMIT)
        seen = await until_one(asked)
        await tell_proxy("cut-after/3500000")
        seen += await rest(asked)
        whole(seen, session)
        check_large(seen)


async def attach_from() -> None:
    async with plain() as pool:
        session = new_session()
        events = await turn(pool, "hello", session)
        request = AttachRequest(session_id=session, turn_id=events[0].started.turn_id, from_sequence=2)
        check(await rest(pool.attach(request, timeout=LIMIT)) == events[1:], "other events")


async def retry_turn() -> None:
    async with through_proxy() as pool:
        session, turn_id = new_session(), session_pool.new_turn_id()
        await tell_proxy("refuse")
        first = asyncio.create_task(turn(pool, "hello", session, turn_id=turn_id))
        await asyncio.sleep(0.3)
        await tell_proxy("accept")
        for events in (await first, await turn(pool, "hello", session, turn_id=turn_id)):
            check(events[0].started.turn_id == turn_id, events[0])
            check(events[-1].result.result == "echo: hello", events[-1])
        answer = await pool.get_session(pb.GetSessionRequest(session_id=session))
        check(answer.session.message_count == 1, answer.session.message_count)


async def cancel_reconnecting() -> None:
    async with through_proxy() as pool, plain() as second:
        session = new_session()
        request = QueryRequest(session_id=session, prompt=HANG, on_disconnect=CONTINUE)
        asked = pool.query(request, timeout=LIMIT)
        await until_one(asked)
        await tell_proxy("refuse")
        await tell_proxy("cut")
        events = asyncio.create_task(rest(asked))
        # Time in which it notices and tries again; shorter is only another moment of the same.
        await asyncio.sleep(0.5)
        check(not events.done(), "it has given up")
        asked.cancel()
        began = time.monotonic()
        error = await failing(events)
        check(isinstance(error, session_pool.CancelledError), repr(error))
        check(time.monotonic() - began < 2, f"after {time.monotonic() - began} s")
        await tell_proxy("accept")
        await second.interrupt(InterruptRequest(session_id=session))


async def concurrent() -> None:
    async with plain() as pool:
        prompts = [f"turn {number}" for number in range(16)]
        turns = await asyncio.gather(*(turn(pool, prompt) for prompt in prompts))
        for prompt, events in zip(prompts, turns, strict=True):
            check(events[-1].result.result == f"echo: {prompt}", events[-1])


async def health() -> None:
    async with plain() as pool:
        for service in ("", "sessionpool.v1.SessionPoolService"):
            answer = await pool.health(service)
            check(answer == "SERVING", answer)
        error = await failing(pool.health("nobody"))
        check(isinstance(error, session_pool.NotFoundError), repr(error))


async def service_config() -> None:
    expected = json.loads(Path(given("SERVICE_CONFIG")).read_text())
    check(json.loads(session_pool.default_service_config()) == expected, "another service config")


async def session_id() -> None:
    seen: list[list[str | bytes]] = []

    def answer(_request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        seen.append([value for key, value in context.invocation_metadata() if key == "session-id"])
        return iter([])

    class Handler(grpc.GenericRpcHandler):
        def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            return grpc.unary_stream_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        async with client(f"127.0.0.1:{port}") as pool:
            await rest(pool.query(QueryRequest(session_id="demo", prompt="hello"), timeout=LIMIT))
            await rest(pool.query(QueryRequest(prompt="hello"), timeout=LIMIT))
    finally:
        server.stop(None)
    check(seen == [["demo"], []], seen)


def authority() -> bytes:
    return Path(given("CA")).read_bytes()


async def tls_token() -> None:
    async with client(given("TLS"), tls=TLS(authority()), token=given("TOKEN")) as pool:
        events = await turn(pool, "hello")
        check(events[-1].result.result == "echo: hello", events[-1])


async def tls_wrong_token() -> None:
    async with client(given("TLS"), tls=TLS(authority()), token="a-wrong-token") as pool:
        error = await failing(pool.list_sessions(pb.ListSessionsRequest()))
        check(isinstance(error, session_pool.UnauthenticatedError), repr(error))
        check(error.reason == "UNAUTHENTICATED" and error.advice is Advice.NO_RETRY, repr(error))
        check("a-wrong-token" not in str(error) and given("TOKEN") not in str(error), "a token is told")


async def mutual_tls() -> None:
    cert, key = (Path(given(name)).read_bytes() for name in ("CLIENT_CERT", "CLIENT_KEY"))
    async with client(given("MUTUAL_TLS"), tls=TLS(authority(), cert, key)) as pool:
        events = await turn(pool, "hello")
        check(events[-1].result.result == "echo: hello", events[-1])


async def mutual_tls_no_certificate() -> None:
    async with client(given("MUTUAL_TLS"), tls=TLS(authority())) as pool:
        await failing(pool.list_sessions(pb.ListSessionsRequest(), timeout=3))


# By their names in the scenario; those that cut connections come one after the other.
STEPS: dict[str, Callable[[], Awaitable[None]]] = {
    "stream": stream,
    "text": text_intact,
    "numbers": numbers_intact,
    "parts": parts,
    "cancel": cancel,
    "dropped": dropped,
    "deadline": deadline,
    "interrupt": interrupt,
    "error-info": error_info,
    "bad-request": bad_request,
    "retry-info": retry_info,
    "attach": attach,
    "attach-parts": attach_parts,
    "attach-from": attach_from,
    "retry-turn": retry_turn,
    "cancel-reconnecting": cancel_reconnecting,
    "concurrent": concurrent,
    "health": health,
    "service-config": service_config,
    "session-id": session_id,
    "tls-token": tls_token,
    "tls-wrong-token": tls_wrong_token,
    "mutual-tls": mutual_tls,
    "mutual-tls-no-certificate": mutual_tls_no_certificate,
}


async def main() -> int:
    for package in ("session-pool-client", "grpcio", "protobuf"):
        print(f"version {package} {version(package)}")
    print(f"version Python {platform.python_version()}")
    failed = 0
    for name, step in STEPS.items():
        began = time.monotonic()
        try:
            await asyncio.wait_for(step(), LIMIT)
        except Exception as error:  # Whatever it is, the other steps are run.
            failed += 1
            told = str(error).replace("\n", " ")[:500]
            print(f"FAILED {name}: {type(error).__name__}: {told}", flush=True)
        else:
            print(f"ok {name} ({time.monotonic() - began:.2f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
