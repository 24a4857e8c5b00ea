"""Finds the documents of the repository, and in them what a reader would copy: blocks of code, and commands
in the middle of a sentence.

For the scripts beside this file. Knows nothing of what becomes of it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from live_service import ROOT

# What was built or fetched, or is not for readers.
PASSED_OVER = {"target", "node_modules", "dist", "build"}
BLOCK = re.compile(r"^( *)```([\w-]*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
# The file that a block is the content of, by its first line.
NAMED = re.compile(r"(?:#|//|<!--) ([\w/]+\.(?:go|java|mjs|py|ts|xml))(?: -->)?\n")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that a reader is told to put it into."""
        named = NAMED.match(self.text)
        return named[1] if named else None


def documents(root: Path = ROOT) -> list[str]:
    """Every document of the repository, by its path in it."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in PASSED_OVER and not name.startswith(".")]
        found += [str((Path(folder) / name).relative_to(root)) for name in files if name.endswith(".md")]
    return sorted(found)


def blocks(document: str, root: Path = ROOT) -> list[Block]:
    """The blocks of a document, in their order."""
    text = (root / document).read_text()
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(document, line, match[2], match[3]))
    return found


def lines(block: Block) -> list[str]:
    """The commands of a block of shell: lines, of which those that belong together count as one."""
    found: list[str] = []
    whole = True
    for line in block.text.splitlines():
        if not whole:
            found[-1] += f"\n{line}"
        elif line.strip() and not line.startswith("#"):
            found.append(line)
        whole = not found or is_whole(found[-1])
    return found


def is_whole(command: str) -> bool:
    """Whether a shell would begin with it, and not ask for more."""
    if command.endswith("\\"):
        return False
    # Of a here-document without its end it only warns.
    read = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
    return read.returncode == 0 and not read.stderr


def spans(document: str, root: Path = ROOT) -> Iterator[tuple[int, str]]:
    """What stands in backticks in the sentences of a document, each with its line."""
    text = BLOCK.sub(lambda match: "\n" * match[0].count("\n"), (root / document).read_text())
    for match in re.finditer(r"(?<!`)`([^`\n]+)`(?!`)", text):
        yield text.count("\n", 0, match.start()) + 1, match[1]


def the_block(document: str, language: str) -> Block:
    """The only block of this language in a document."""
    found = [block for block in blocks(document) if block.language == language]
    if len(found) != 1:
        raise ValueError(f"{document} has {len(found)} blocks of {language}, not one")
    return found[0]
