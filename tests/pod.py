"""A rendered StatefulSet as the arguments of `podman run`, and what a kubelet would do around it.

Every field of the pod is either translated here or left out by name, with the reason beside it. A field that
is neither is refused: a manifest that asks for more must not be tried as if it asked for less. Knows no
container engine beyond its arguments; `container.py` has that.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from live_service import Failure

# The users of a pod with a user namespace of its own, on the machine: as many as a kubelet gives to a pod.
USERS_FROM, USERS = 1_000_000, 65_536


class Fields:
    """An object of the manifest, of which each field has to be taken or left."""

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.name, self.rest = name, dict(fields)

    def take(self, field_name: str, default: Any = None) -> Any:  # noqa: ANN401 # whatever YAML can say
        """The field's value, or `default` where the manifest does not have it."""
        return self.rest.pop(field_name, default)

    def fields(self, field_name: str) -> Fields:
        """A field that is an object itself."""
        return Fields(f"{self.name}.{field_name}", self.take(field_name, {}))

    def leave(self, *field_names: str) -> None:
        """Leaves fields out that mean nothing on one machine."""
        for field_name in field_names:
            self.rest.pop(field_name, None)

    def done(self) -> None:
        """Refuses what nobody has asked for."""
        if self.rest:
            raise Failure(f"{self.name}: nobody knows what to make of {', '.join(sorted(self.rest))}")


@dataclass(frozen=True)
class Probe:
    """How a kubelet asks whether a container is well."""

    port: int
    service: str
    period: float
    timeout: float
    failures: int

    @property
    def limit(self) -> float:
        """Seconds after which a kubelet gives up."""
        return self.period * self.failures


@dataclass
class Pod:
    """The pod of a StatefulSet, and what it takes to run it."""

    image: str
    arguments: list[str]
    probes: dict[str, Probe]
    # Seconds that it goes on serving before it is told to end, and that it then has.
    pre_stop: float
    grace: float
    # What a session is enclosed in, and whether the pod has users of its own.
    sandbox: str
    own_users: bool
    group: int
    memory: int
    options: list[str] = field(default_factory=list)
    # Where volumes are mounted, by their names; whether they are read-only.
    mounts: dict[str, tuple[str, bool]] = field(default_factory=dict)
    # The content of the volumes that have one.
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    # The modes of their files, where they are not for everybody to read.
    modes: dict[str, int] = field(default_factory=dict)
    seccomp: str = "RuntimeDefault"


def only(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    found = [document for document in documents if document["kind"] == kind]
    if len(found) != 1:
        raise Failure(f"{len(found)} documents of kind {kind} instead of one")
    return found[0]


def read_pod(documents: list[dict[str, Any]], secrets: dict[str, dict[str, str]]) -> Pod:
    """The pod of the StatefulSet among the documents; `secrets` has the content of Secrets by name."""
    stateful_set = only(documents, "StatefulSet")["spec"]
    spec = Fields("pod", stateful_set["template"]["spec"])
    # Where it runs, and that nothing of Kubernetes is put into it, which podman does not do either.
    spec.leave("nodeSelector", "affinity", "topologySpreadConstraints")
    spec.leave("automountServiceAccountToken", "enableServiceLinks")
    (container,) = spec.take("containers")
    of_container = Fields("container", container)
    resources = of_container.fields("resources")
    # What is asked for decides where a pod runs; what it may write to disk is not bounded here.
    resources.leave("requests")
    limits = resources.fields("limits")
    limits.leave("ephemeral-storage")
    pod = Pod(
        image=of_container.take("image"),
        arguments=of_container.take("args", []),
        probes={
            name: read_probe(of_container.fields(name + "Probe"))
            for name in ("startup", "readiness", "liveness")
        },
        pre_stop=of_container.take("lifecycle")["preStop"]["sleep"]["seconds"],
        grace=spec.take("terminationGracePeriodSeconds"),
        sandbox="",
        own_users=spec.take("hostUsers", True) is False,
        group=0,
        memory=mebibytes(limits.take("memory")),
    )
    limits.done()
    resources.done()
    # The pod has a network of its own: nothing has to be published.
    of_container.leave("name", "ports")
    read_environment(pod, of_container.take("env", []), secrets)
    read_security(pod, spec.fields("securityContext"), of_container.fields("securityContext"))
    read_volumes(pod, spec.take("volumes", []), stateful_set["volumeClaimTemplates"], documents, secrets)
    for mount in of_container.take("volumeMounts", []):
        pod.mounts[mount["name"]] = (mount["mountPath"], mount.get("readOnly", False))
    of_container.done()
    spec.done()
    return pod


def mebibytes(quantity: str) -> int:
    if not quantity.endswith("Mi"):
        raise Failure(f"memory {quantity} is not in Mi")
    return int(quantity.removesuffix("Mi"))


def read_probe(probe: Fields) -> Probe:
    grpc = probe.take("grpc")
    read = Probe(
        port=grpc["port"],
        service=grpc["service"],
        period=probe.take("periodSeconds"),
        timeout=probe.take("timeoutSeconds"),
        failures=probe.take("failureThreshold"),
    )
    probe.done()
    return read


def read_environment(pod: Pod, variables: list[dict[str, Any]], secrets: dict[str, dict[str, str]]) -> None:
    for variable in variables:
        if "valueFrom" in variable:
            reference = variable["valueFrom"]["secretKeyRef"]
            value = secrets[reference["name"]][reference["key"]]
        else:
            value = variable["value"]
        if variable["name"] == "SESSION_POOL__CLI__SANDBOX":
            pod.sandbox = value
        pod.options.append(f"--env={variable['name']}={value}")


def read_security(pod: Pod, of_pod: Fields, of_container: Fields) -> None:
    user, group = of_pod.take("runAsUser"), of_pod.take("runAsGroup")
    if of_pod.take("runAsNonRoot") and not user:
        raise Failure("runAsNonRoot, and no runAsUser")
    pod.group = of_pod.take("fsGroup")
    # It says how often the owners of a volume's files are set; this one is new.
    of_pod.leave("fsGroupChangePolicy")
    pod.options += [f"--user={user}:{group}", f"--group-add={pod.group}"]
    profiles = [fields.take("seccompProfile", {}) for fields in (of_container, of_pod)]
    profile = profiles[0] or profiles[1]
    pod.seccomp = profile.get("localhostProfile", profile["type"])
    if of_container.take("allowPrivilegeEscalation") is False:
        pod.options.append("--security-opt=no-new-privileges")
    if of_container.take("readOnlyRootFilesystem"):
        pod.options += ["--read-only", "--read-only-tmpfs=false"]
    capabilities = of_container.fields("capabilities")
    pod.options += [f"--cap-drop={name}" for name in capabilities.take("drop", [])]
    capabilities.done()
    if of_container.take("procMount", "Default") == "Unmasked":
        pod.options.append("--security-opt=unmask=ALL")
    if of_container.fields("appArmorProfile").take("type", "RuntimeDefault") == "Unconfined":
        pod.options.append("--security-opt=apparmor=unconfined")
    if pod.own_users:
        pod.options += [f"--{kind}map=0:{USERS_FROM}:{USERS}" for kind in ("uid", "gid")]
    # With swap as large as memory a bound of memory would be none.
    pod.options += [f"--memory={pod.memory}m", f"--memory-swap={pod.memory}m"]
    of_pod.done()
    of_container.done()


def read_volumes(
    pod: Pod,
    volumes: list[dict[str, Any]],
    claims: list[dict[str, Any]],
    documents: list[dict[str, Any]],
    secrets: dict[str, dict[str, str]],
) -> None:
    pod.files |= {claim["metadata"]["name"]: {} for claim in claims}
    for volume in volumes:
        described = Fields(f"volume {volume['name']}", volume)
        described.leave("name")
        if reference := described.take("secret"):
            pod.files[volume["name"]] = secrets[reference["secretName"]]
            pod.modes[volume["name"]] = reference["defaultMode"]
        elif reference := described.take("configMap"):
            maps = {d["metadata"]["name"]: d["data"] for d in documents if d["kind"] == "ConfigMap"}
            pod.files[volume["name"]] = maps[reference["name"]]
        else:
            # Its size is a bound that a kubelet holds by looking at it now and then.
            described.take("emptyDir")
            pod.files[volume["name"]] = {}
        described.done()


def make_volumes(pod: Pod, folder: Path) -> list[str]:
    """Makes the volumes as a kubelet does, and returns the options that mount them."""
    options = []
    root = USERS_FROM if pod.own_users else 0
    for name, files in pod.files.items():
        place = folder / name
        place.mkdir(parents=True)
        if files:
            # A folder of one moment, to which links lead: the whole volume changes at once.
            moment = place / "..moment"
            moment.mkdir()
            (place / "..data").symlink_to(moment.name)
            for file, text in files.items():
                (moment / file).write_text(text)
                (moment / file).chmod(pod.modes.get(name, 0o644))
                os.chown(moment / file, root, root + pod.group)
                (place / file).symlink_to(f"..data/{file}")
        os.chown(place, root, root + pod.group)
        place.chmod(stat.S_ISGID | (0o777 if name == "tmp" else 0o775))
        mounted_at, read_only = pod.mounts[name]
        options.append(f"--volume={place}:{mounted_at}:{'ro' if read_only else 'rw'}")
    return options
