"""A tool server in Python: offers a tool `temperature` to all sessions, and answers its calls.

    python examples/tool_server.py weather

The service needs `policy.tool_servers = true`, and a session `options.tool_servers = ["weather"]`.
`SESSION_POOL_SERVER` is the service's address (default `localhost:50051`). Needs grpcio, and stubs made
from `proto/` with grpcio-tools. See `docs/tools.md`.
"""

from __future__ import annotations

import json
import os
import queue
import sys
from collections.abc import Iterator

import grpc
from sessionpool.v1 import session_pool_pb2 as pb
from sessionpool.v1 import session_pool_pb2_grpc as pb_grpc

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def temperature(city: str) -> str:
    """The tool itself."""
    if city == "Atlantis":
        raise ValueError("there is no city Atlantis")
    return f"{10 + len(city)} degrees in {city}"


def answer(call: pb.ToolCall) -> pb.ToolResult:
    """An error is told to the model, which may try again."""
    try:
        text, failed = temperature(**json.loads(call.arguments_json)), False
    except (TypeError, ValueError) as error:
        text, failed = str(error), True
    return pb.ToolResult(call_id=call.call_id, content=[pb.ToolContent(text=text)], is_error=failed)


def serve(channel: grpc.Channel, server: str) -> None:
    tool = pb.Tool(
        name="temperature",
        description="The temperature in a city, in degrees Celsius.",
        input_schema_json=json.dumps(SCHEMA),
        annotations_json=json.dumps({"readOnlyHint": True}),
    )
    register = pb.RegisterTools(server=server, tools=[tool], sessions=pb.ToolSessions(all=True))
    requests: queue.SimpleQueue[pb.ServeToolsRequest] = queue.SimpleQueue()
    requests.put(pb.ServeToolsRequest(register=register))

    def outgoing() -> Iterator[pb.ServeToolsRequest]:
        while True:
            yield requests.get()

    stub = pb_grpc.SessionPoolServiceStub(channel)  # type: ignore[no-untyped-call]
    for told in stub.ServeTools(outgoing()):
        if told.HasField("call"):
            print(f"call of {told.call.tool} by session {told.call.session_id}", flush=True)
            requests.put(pb.ServeToolsRequest(result=answer(told.call)))
        else:
            print(told.WhichOneof("message"), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("tool_server: the name of the tool server is needed")
    with grpc.insecure_channel(os.environ.get("SESSION_POOL_SERVER", "localhost:50051")) as opened:
        try:
            serve(opened, sys.argv[1])
        except grpc.RpcError as error:
            sys.exit(f"tool_server: {error.details()}")
