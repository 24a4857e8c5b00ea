"""Adds to the package what the repository has in one place: stubs of the contract, and the service config."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
CONTRACT = Path("sessionpool/v1/session_pool.proto")
CONFIG = "service_config.json"


def source(inside: str, outside: str) -> Path:
    """A file or folder of the repository, or of a source distribution that has a copy of it."""
    found = next((path for path in (HERE / inside, HERE.parent.parent / outside) if path.exists()), None)
    if found is None:
        raise SystemExit(f"there is no {outside}: build the package in a clone of the repository")
    return found


def proto() -> Path:
    return source("proto", "proto")


def config() -> Path:
    return source(CONFIG, f"deploy/{CONFIG}")


class Build(build_py):
    """Generates the stubs into what is built, and puts the service config beside the code."""

    def run(self) -> None:
        super().run()
        out = Path(self.build_lib)
        stubs = out / CONTRACT.parent
        stubs.mkdir(parents=True, exist_ok=True)
        kinds = [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
        command = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={proto()}",
            *kinds,
            str(CONTRACT),
        ]
        subprocess.run(command, check=True)
        for folder in (stubs.parent, stubs):
            (folder / "__init__.py").touch()
        (stubs.parent / "py.typed").touch()
        shutil.copyfile(config(), out / "session_pool" / CONFIG)


class SourceDistribution(sdist):
    """Takes along what is built from."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        shutil.copytree(proto(), Path(base_dir) / "proto", dirs_exist_ok=True)
        shutil.copyfile(config(), Path(base_dir) / CONFIG)


setup(cmdclass={"build_py": Build, "sdist": SourceDistribution})
