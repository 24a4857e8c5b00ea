"""What documents show and readme/run does not run as it stands: each with the reason, and with the place
where it is run, which names it in the words that are given here.

An entry that no document needs any more, and one whose place does not have these words, is a failure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Elsewhere:
    """Lines that are run in another place."""

    document: str
    # How the line begins.
    begins: str
    reason: str
    # A file of the repository, and words in it.
    where: str
    words: str


@dataclass(frozen=True)
class Refused:
    """Lines that have to fail, and what they say: they name what only a reader's own service has."""

    document: str
    begins: str
    says: str


@dataclass(frozen=True)
class Waiting:
    """Lines of a first terminal, which the lines behind them let go on once they have shown something."""

    document: str
    begins: str
    shows: str


ELSEWHERE = (
    Elsewhere(
        "README.md",
        "make run",
        "runs until it is stopped: everything is pasted beside it",
        "tests/clients/readme/run",
        'Path("make"), "run"',
    ),
    Elsewhere(
        "deploy/README.md",
        "deploy/check  ",
        "takes a minute, and is a check of its own",
        ".ci/test",
        "check 'deploy' deploy/check",
    ),
    Elsewhere(
        "deploy/README.md",
        "deploy/check --self-test",
        "takes minutes, and is a check of its own",
        ".ci/test",
        "deploy/check --self-test",
    ),
    Elsewhere(
        "deploy/README.md",
        "deploy/check --image",
        "takes a minute, and is a check of its own",
        ".ci/test",
        "deploy/check --image",
    ),
    Elsewhere(
        "deploy/README.md",
        "deploy/check --deb",
        "builds cargo-deb and a release of the service, by hand",
        "deploy/check",
        "deploy/debian/check",
    ),
    Elsewhere(
        "docs/calling.md",
        "session-pool attach demo ",
        "needs a terminal",
        "tests/clients/terminal/run",
        'Terminal("attach"',
    ),
    Elsewhere(
        "docs/calling.md",
        "session-pool chat ",
        "needs a terminal",
        "tests/clients/terminal/run",
        'Terminal("chat", "--model", "opus")',
    ),
    Elsewhere(
        "docs/tools.md",
        "cargo run --example tool_server",
        "compiles the service once more, without what tests need",
        "tests/clients/run",
        '"--example", "tool_server"',
    ),
)

REFUSED = (
    Refused("docs/background.md", "session-pool stop-task s bx04mddoe", "TASK_NOT_FOUND"),
    Refused("docs/background.md", 'grpcurl -plaintext -d \'{"session_id": "s", "task_id"', "TASK_NOT_FOUND"),
    # Nobody types the messages; callers of examples/ do, in tests/clients/tools/run.
    Refused("docs/tools.md", "grpcurl -plaintext -d @ ", "must be register in the first request"),
    Refused("docs/calling.md", 'grpcurl -plaintext -d \'{"session_id": "demo", "cursor"', "INVALID_ARGUMENT"),
)

WAITING = (
    Waiting("docs/answering.md", 'grpcurl -plaintext -d \'{"session_id": "exchange", "prompt"', '"promptId"'),
    Waiting("docs/hooks.md", 'grpcurl -plaintext -d \'{"session_id": "tidy", "prompt"', '"promptId"'),
)


@dataclass(frozen=True)
class Frame:
    """What has to stand around an excerpt so that it is a whole."""

    document: str
    # The excerpt's first line.
    begins: str
    before: str
    after: str = ""


FRAMES = (
    Frame(
        "clients/go/README.md",
        "var failed *sessionpool.Error",
        "package excerpt\n\nimport (\n"
        '\t"errors"\n\t"fmt"\n\n'
        '\tsessionpool "github.com/session-pool/session-pool/clients/go"\n'
        '\tpb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"\n)\n\n'
        "func excerpt(err error) {\n",
        "}\n}\n",
    ),
    Frame(
        "clients/python/README.md",
        "try:",
        "from session_pool import AsyncClient, SessionPoolError\n\n"
        "async def ask(pool: AsyncClient, prompt: str) -> str:\n    raise NotImplementedError\n\n\n"
        'pool = AsyncClient("127.0.0.1:50051")\n',
    ),
    Frame(
        "clients/typescript/README.md",
        'import { newTurnId, pb } from "session-pool-client";',
        'import type { Client } from "session-pool-client";\ndeclare const pool: Client;\n',
    ),
    Frame(
        "clients/typescript/README.md",
        'import { SessionPoolError } from "session-pool-client";',
        'import type { Client } from "session-pool-client";\ndeclare const pool: Client;\n',
    ),
    Frame(
        "docs/answering.md",
        "for item in stub.WatchSession(pb.WatchSessionRequest(session_id=session)):",
        "import grpc\n"
        "from sessionpool.v1 import session_pool_pb2 as pb, session_pool_pb2_grpc as pb_grpc\n\n"
        'stub = pb_grpc.SessionPoolServiceStub(grpc.insecure_channel("localhost:50051"))\n'
        'session = "demo"\n',
    ),
)


@dataclass(frozen=True)
class Target:
    """A target of the Makefile, and where what it does is run."""

    name: str
    where: str
    words: str
    reason: str = ""


TARGETS = (
    Target("demo", "README.md", "make demo"),
    Target("run", "tests/clients/readme/run", 'Path("make"), "run"'),
    Target("test", ".ci/run", "exec make test"),
    Target("cluster", "tests/clients/run", "tests/run-cluster"),
    Target("clients", ".ci/test", "tests/clients/run"),
    Target("faults", ".ci/test", "check 'faults' tests/faults"),
    Target("lint", ".ci/test", "lint() {", "the gate has its checks"),
    Target("help", "tests/clients/readme/run", '"make", "help"'),
    Target("fuzz", ".ci/test", "tests/fuzz/run 10", "half an hour; the gate runs each target for 10 s"),
    Target(
        "soak",
        "Makefile",
        "--test soak",
        "twenty minutes; `cargo test` of the gate runs the test for seconds",
    ),
    Target("store-faults", "Makefile", "--test store_faults", "six minutes; the gate runs 50 of 500 rounds"),
    Target("chaos", "Makefile", "--test chaos", "half an hour; the gate runs a list of rounds"),
    Target("bench", "Makefile", "tests/bench", "a quarter of an hour, and a release build, by hand"),
    Target("bench-quick", ".ci/test", "tests/bench-quick"),
    Target("fmt", "Makefile", ".ci/fmt", "writes; the gate checks the format"),
    Target("clean", "Makefile", "cargo clean", "removes what the gate has built"),
)
