"""Podman and buildah on a store of their own, of which nothing is left.

A `Store` is one temporary folder with images, containers, volumes and the engine's configuration, so that
what the machine has of containers is neither seen nor touched. Containers get a network that has nothing but
loopback; it belongs to the process of the stand-in and ends with it. Needs root.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from live_service import (
    ROOT,
    SERVICE,
    STAND_IN,
    Daemon,
    Failure,
    kill_marked,
    service_environment,
)

BASE = "debian:bookworm-slim"
PROGRAMS = ("podman", "buildah", "runc", "mmdebstrap", "ip", "nsenter", "strip")
TOOLS = ROOT / os.environ.get("SESSION_POOL_TOOLS", "target/tools")
CGROUPS = Path("/sys/fs/cgroup")
# A base image that can be had is there soon.
PULL_LIMIT = 20.0
# Of any command of the engine.
LIMIT = 120.0

# The profile of podman's own, where Debian has it.
DEFAULT_SECCOMP = Path("/usr/share/containers/seccomp.json")
# What containerd lets only processes with CAP_SYS_ADMIN do, and podman everybody.
NAMESPACE_CALLS = {
    "clone3",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "setns",
    "umount",
    "umount2",
    "unshare",
}
# The flags of clone that make namespaces.
NAMESPACE_FLAGS = 0x7E02_0000


def base_image_file() -> Path:
    """Where the base image is kept between runs."""
    return TOOLS / "images" / f"{BASE.replace(':', '-')}-{os.uname().machine}.tar"


class Store:
    """Images and containers, from `with` to its end."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="session-pool-image-"))
        # Users of a container's own have to reach what is mounted from it.
        self.folder.chmod(0o711)
        self.parent = f"/{self.folder.name}"
        self.env = service_environment() | self._configuration()

    def _configuration(self) -> dict[str, str]:
        """Makes the engine's configuration, and returns the variables that name it."""
        # The engine's defaults are more than a process without CAP_SYS_RESOURCE can have.
        hard = {
            "nofile": min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65_536),
            "nproc": min(resource.getrlimit(resource.RLIMIT_NPROC)[1], 32_768),
        }
        limits = json.dumps([f"{name}={limit}:{limit}" for name, limit in hard.items()])
        files = {
            "CONTAINERS_CONF": f"""
[containers]
default_ulimits = {limits}
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
static_dir = "{self.folder}/libpod"
tmp_dir = "{self.folder}/tmp"
volume_path = "{self.folder}/named"
""",
            "CONTAINERS_STORAGE_CONF": f"""
[storage]
driver = "overlay"
graphroot = "{self.folder}/images"
runroot = "{self.folder}/run"
""",
        }
        env = {"DISABLE_HC_SYSTEMD": "true"}
        for variable, text in files.items():
            file = self.folder / variable.lower()
            file.write_text(text)
            env[variable] = str(file)
        return env

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self.remove():
            print(f"image: removed what was left behind: {line}", file=sys.stderr)

    def run(
        self, *command: str | Path, check: bool = True, limit: float = LIMIT
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command of the engine; its output is kept."""
        done = subprocess.run(
            command,
            env=self.env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=limit,
        )
        if check and done.returncode != 0:
            raise Failure(
                f"{' '.join(map(str, command[:3]))} … ended with code {done.returncode}\n{done.stderr}"
            )
        return done

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        """What the engine knows of an image or a container."""
        found: dict[str, Any] = json.loads(self.run("podman", kind, "inspect", name).stdout)[0]
        return found

    def mounts(self) -> list[str]:
        """Where something is mounted in the folder, the innermost first."""
        places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return sorted((place for place in places if place.startswith(str(self.folder))), reverse=True)

    def cgroups(self) -> list[Path]:
        """The control groups of this store's containers, the innermost first."""
        groups = [Path(folder) for folder, _, _ in os.walk(CGROUPS) if self.parent in folder]
        return sorted(groups, key=lambda group: len(group.parts), reverse=True)

    def remove(self) -> list[str]:
        """Removes all of it; returns what the engine itself should have removed."""
        with suppress(Failure, subprocess.TimeoutExpired):
            self.run("podman", "rm", "--all", "--force", "--time=0", "--volumes", check=False)
        kill_marked(str(self.folder))
        left = []
        # The engine mounts its store over itself, and leaves that to the machine's end.
        for place in self.mounts():
            if Path(place) != self.folder / "images/overlay":
                left.append(f"a mount: {place}")
            subprocess.run(["umount", "--lazy", place], check=False)
        for group in self.cgroups():
            with suppress(OSError):
                group.rmdir()
        left += [f"a control group: {group}" for group in self.cgroups()]
        subprocess.run(["rm", "-rf", "--one-file-system", "--", self.folder], check=False)
        return left


def make_base_image(store: Store) -> None:
    """Makes sure that the base image is in the store, and kept for the next one."""
    file = base_image_file()
    if file.exists():
        store.run("podman", "load", "--quiet", f"--input={file}")
        return
    if not pull(store):
        print(f"image: {BASE} cannot be pulled; making it of Debian's packages", flush=True)
        root = store.folder / "base.tar"
        # As the image of that name: no documents, no translations.
        left_out = ["doc/*", "man/*", "info/*", "locale/*", "lintian/*"]
        options = [f"--dpkgopt=path-exclude=/usr/share/{place}" for place in left_out]
        options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
        store.run("mmdebstrap", "--quiet", "--variant=minbase", *options, "bookworm", root, limit=300)
        # Nor does a later installation keep what it has downloaded.
        settings = Path("etc/apt/apt.conf.d/docker-clean")
        (store.folder / settings).parent.mkdir(parents=True)
        (store.folder / settings).write_text(
            'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
            'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };\n'
        )
        store.run(
            "tar", "--append", f"--file={root}", f"--directory={store.folder}", "--owner=0", f"./{settings}"
        )
        store.run("podman", "import", "--change=CMD bash", root, BASE)
        root.unlink()
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    store.run("podman", "save", "--quiet", f"--output={part}", BASE)
    part.rename(file)


def pull(store: Store) -> bool:
    try:
        return store.run("podman", "pull", "--quiet", BASE, check=False, limit=PULL_LIMIT).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def build_image(store: Store, name: str, programs: Path, cli: Path) -> None:
    """Builds the runtime stage of deploy/Dockerfile, as it stands there, from what has been built already.

    Named contexts take the places of the two stages that it copies from.
    """
    service, of_cli = store.folder / "stage-build", store.folder / "stage-cli"
    program = service / "usr/local/bin" / SERVICE
    program.parent.mkdir(parents=True)
    # What a debug build knows of its sources is larger than the rest of the image.
    store.run("strip", "-o", program, programs / SERVICE)
    (of_cli / "cli").mkdir(parents=True)
    try:
        # A large file, which is only read.
        os.link(cli, of_cli / "cli/claude")
    except OSError:
        shutil.copy2(cli, of_cli / "cli/claude")
    # .ci/fetch-cli keeps the program alone, and this image goes nowhere.
    (of_cli / "cli/LICENSE.md").write_text("See the package of the CLI.\n")
    dockerfile = store.folder / "Dockerfile"
    dockerfile.write_text(runtime_stage((ROOT / "deploy/Dockerfile").read_text()))
    store.run(
        "buildah",
        "build",
        "--isolation=chroot",
        "--pull-never",
        f"--file={dockerfile}",
        f"--ignorefile={ROOT / 'deploy/Dockerfile.dockerignore'}",
        f"--build-context=build={service}",
        f"--build-context=cli={of_cli}",
        f"--tag={name}",
        ROOT,
        limit=300,
    )


def runtime_stage(dockerfile: str) -> str:
    """The last stage of a Dockerfile, with what stands before it left out."""
    begin = dockerfile.rindex("\nFROM ")
    return dockerfile[begin + 1 :]


def containerd_profile(store: Store) -> Path:
    """What RuntimeDefault is with containerd: podman's own profile, less what makes namespaces."""
    profile = json.loads(DEFAULT_SECCOMP.read_text())
    for rule in profile["syscalls"]:
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("includes", {}).get("caps"):
            rule["names"] = [name for name in rule["names"] if name not in NAMESPACE_CALLS | {"clone"}]
    profile["syscalls"] = [rule for rule in profile["syscalls"] if rule["names"]]
    no_namespaces = {"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    profile["syscalls"] += [
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [no_namespaces]},
        # Its flags are in memory, where no filter looks: C libraries then take clone.
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
    ]
    file = store.folder / "containerd.json"
    file.write_text(json.dumps(profile))
    return file


class Network:
    """A network with nothing but loopback, and the stand-in in it, to whose process it belongs."""

    def __init__(self, programs: Path, folder: Path) -> None:
        up = 'ip link set dev lo up && exec "$0" "$@"'
        log = folder / "stand-in.log"
        arguments = ["--net", "--", "sh", "-c", up, str(programs / STAND_IN), "--listen", "127.0.0.1:0"]
        self.daemon = Daemon(Path("/usr/bin/unshare"), *arguments, env=service_environment(), log=log)
        self.place = Path(f"/proc/{self.daemon.process.pid}/ns/net")

    def __enter__(self) -> Self:
        try:
            self.url = self.daemon.wait_for(
                lambda line: line.removeprefix("listening ") if "listening" in line else None
            )
        except BaseException:
            self.daemon.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.daemon.stop()

    def command(self, *command: str | Path) -> list[str]:
        """A command in this network."""
        return ["nsenter", f"--net={self.place}", "--", *map(str, command)]

    def run(self, *command: str | Path, limit: float = LIMIT) -> subprocess.CompletedProcess[str]:
        """Runs a command in this network."""
        return subprocess.run(
            self.command(*command),
            env=service_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=limit,
        )

    def processes(self) -> list[str]:
        """Whatever else is in this network: all that a container has started, wherever it went."""
        wanted, found = self.place.stat().st_ino, []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (
                    int(folder.name) != self.daemon.process.pid
                    and (folder / "ns/net").stat().st_ino == wanted
                ):
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found.append(f"{folder.name} {command.strip()}")
            except OSError:
                continue
        return found
