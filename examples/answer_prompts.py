"""Answers what a session asks, whichever of its turns or subagents asks it, from another machine than the
caller's if need be. It follows the session, so a restart of this program or of the service loses nothing
that still waits: what is open is shown when it comes back.

    python examples/answer_prompts.py demo

`SESSION_POOL_SERVER` is the service's address (default `localhost:50051`). Needs grpcio, and stubs made
from `proto/` with grpcio-tools. See `docs/answering.md`.
"""

from __future__ import annotations

import os
import sys

import grpc
from sessionpool.v1 import session_pool_pb2 as pb
from sessionpool.v1 import session_pool_pb2_grpc as pb_grpc


def answer(session: str, prompt: pb.OpenPrompt) -> pb.RespondRequest:
    """What is said to a tool; a person or a rule of yours would look at it here. Its input is shown up to
    1,000 characters; all of it is in the turn's `prompt` event."""
    respond = pb.RespondRequest(session_id=session, prompt_id=prompt.prompt_id)
    if "secret" in prompt.input_excerpt:
        respond.deny.message = "Secrets stay where they are."
    else:
        respond.allow.SetInParent()
    return respond


def follow(stub: pb_grpc.SessionPoolServiceStub, session: str) -> None:
    for item in stub.WatchSession(pb.WatchSessionRequest(session_id=session)):
        for prompt in item.session.open_prompts:
            if prompt.kind != pb.PROMPT_KIND_TOOL_PERMISSION:
                continue
            request = answer(session, prompt)
            try:
                stub.Respond(request)
            except grpc.RpcError as error:
                # Somebody else was faster, or it has expired.
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    raise
            said = request.WhichOneof("decision")
            print(f"{said}: {prompt.tool_name} {prompt.input_excerpt}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("answer_prompts: the session is needed")
    with grpc.insecure_channel(os.environ.get("SESSION_POOL_SERVER", "localhost:50051")) as opened:
        try:
            follow(pb_grpc.SessionPoolServiceStub(opened), sys.argv[1])  # type: ignore[no-untyped-call]
        except grpc.RpcError as error:
            sys.exit(f"answer_prompts: {error.details()}")
