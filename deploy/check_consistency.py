"""Checks that the files of deploy/ agree with each other. Run by deploy/check.

Usage: check_consistency.py REPOSITORY RENDERED…, the files named after the base and the overlays
"""

import json
import re
import sys
import tomllib
from pathlib import Path

import yaml

SERVICE = "sessionpool.v1.SessionPoolService"
PROBES = {"startupProbe": SERVICE, "readinessProbe": SERVICE, "livenessProbe": "liveness"}
# Calls that change nothing: the only ones that a caller's library may repeat by itself.
IDEMPOTENT = {"GetStats", "GetSession", "ListSessions"}

# What the service needs after its drain timeout: the interrupt of turns that still run (its default
# when the configuration does not set it), then closing processes and the store.
STREAM_INTERRUPT_TIMEOUT = "10s"
CLOSE_SECONDS = 15
# Defaults of server.drain_timeout and cli.max_tasks, for what does not set them.
DRAIN_TIMEOUT = "30s"
MAX_TASKS = 2048
# 512 MiB for the service and 300 MiB for each CLI process.
SERVICE_MIB = 512
PROCESS_MIB = 300


# Listeners that an overlay may add.
LISTENERS = {"health_listen", "metrics_listen"}
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
# The names of what belongs to the proxy in front of several nodes begin with this.
PROXY = "session-pool-envoy"
# Where the kubelet looks for the profile of components/bubblewrap, below its own root for profiles.
SECCOMP_ON_NODES = "session-pool/bubblewrap.json"
# What bubblewrap makes a session's namespaces with, and what no pod gets for that.
NAMESPACE_CALLS = {"clone", "unshare", "mount", "umount2", "pivot_root"}
REFUSED_CALLS = {
    *("add_key", "keyctl", "request_key", "setns", "bpf", "userfaultfd", "perf_event_open", "open_by_handle_at"),
    *("io_uring_setup", "init_module", "finit_module", "kexec_load", "reboot", "swapon", "settimeofday", "chroot"),
}


class Problem(Exception):
    """Something that does not agree; the message says what and where."""


def require(condition, message):
    if not condition:
        raise Problem(message)


def seconds(duration):
    match = re.fullmatch(r"(\d+)(ms|s|m|h)", duration)
    require(match, f"'{duration}' is not a duration that this check understands")
    return int(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2]]


def mebibytes(quantity):
    match = re.fullmatch(r"(\d+)(Mi|Gi)", str(quantity))
    require(match, f"memory '{quantity}': write it in Mi or Gi")
    return int(match[1]) * {"Mi": 1, "Gi": 1024}[match[2]]


class Rendered:
    """The documents that kustomize made, and the parts that the checks look at."""

    def __init__(self, path):
        self.documents = [d for d in yaml.safe_load_all(Path(path).read_text()) if d]
        self.stateful_set = self.only("StatefulSet")
        self.template = self.stateful_set["spec"]["template"]
        self.pod = self.template["spec"]
        require(len(self.pod["containers"]) == 1, "the pod has more than one container")
        self.container = self.pod["containers"][0]
        config_map = self.only("ConfigMap")
        try:
            self.config = tomllib.loads(config_map["data"]["config.toml"])
        except tomllib.TOMLDecodeError as error:
            raise Problem(f"config.toml is not TOML: {error}") from error

    def all(self, kind, proxy=False):
        """The documents of a kind, of the nodes or of the proxy in front of them."""
        return [d for d in self.documents if d["kind"] == kind and d["metadata"]["name"].startswith(PROXY) == proxy]

    def only(self, kind, proxy=False):
        found = self.all(kind, proxy)
        require(len(found) == 1, f"{len(found)} documents of kind {kind} instead of one")
        return found[0]

    def setting(self, section, key):
        value = self.config.get(section, {}).get(key)
        require(value is not None, f"config.toml does not set {section}.{key}")
        return value

    def port(self, name="grpc"):
        ports = [p["containerPort"] for p in self.container["ports"] if p["name"] == name]
        require(len(ports) == 1, f"the container has no port named {name}")
        return ports[0]

    def variable(self, name):
        """The value of an environment variable of the container, where the manifest has it."""
        return next((e.get("value") for e in self.container["env"] if e["name"] == name), None)

    def encrypts(self):
        return "tls" in self.config

    def is_of_several(self):
        return self.config.get("store", {}).get("kind") == "postgres"


def check_probes(k8s):
    health = k8s.config["server"].get("health_listen")
    require(health or not k8s.encrypts(), "probes speak no TLS, and server.health_listen is not set")
    port = k8s.port("health" if health else "grpc")
    require(not health or health.endswith(f":{port}"), f"server.health_listen '{health}' does not use port {port}")
    for probe, service in PROBES.items():
        grpc = k8s.container.get(probe, {}).get("grpc", {})
        require(grpc.get("service") == service, f"{probe} asks for '{grpc.get('service')}', not '{service}'")
        require(grpc.get("port") == port, f"{probe} uses port {grpc.get('port')}, not {port}")
    return f"probes ask port {port} for the names that the service reports"


def check_drain(k8s):
    pre_stop = k8s.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = seconds(k8s.setting("server", "drain_timeout"))
    interrupt = seconds(k8s.config["pool"].get("stream_interrupt_timeout", STREAM_INTERRUPT_TIMEOUT))
    needed = pre_stop + drain + interrupt + CLOSE_SECONDS
    grace = k8s.pod["terminationGracePeriodSeconds"]
    sum_ = f"preStop {pre_stop} + drain {drain:g} + interrupt {interrupt:g} + close {CLOSE_SECONDS} = {needed:g} s"
    require(grace >= needed, f"terminationGracePeriodSeconds is {grace}, less than {sum_}")
    return f"grace period {grace} s fits {sum_}"


def check_memory(k8s):
    processes = k8s.setting("pool", "max_processes")
    needed = SERVICE_MIB + processes * PROCESS_MIB
    for name in ("request", "limit"):
        have = mebibytes(k8s.container["resources"][name + "s"]["memory"])
        formula = f"{SERVICE_MIB} + {processes} x {PROCESS_MIB} = {needed} MiB"
        require(have >= needed, f"the memory {name} is {have} MiB, less than {formula}")
    request, limit = (mebibytes(k8s.container["resources"][n]["memory"]) for n in ("requests", "limits"))
    session = mebibytes(k8s.setting("cli", "memory_limit").replace("iB", "i"))
    room = limit - request + PROCESS_MIB
    require(session <= room, f"cli.memory_limit is {session} MiB, and one process has room for {room} MiB")
    return f"memory request and limit fit {processes} processes ({needed} MiB), one of up to {session} MiB"


def check_ports(k8s, dockerfile):
    port = k8s.port()
    require(k8s.setting("server", "listen").endswith(f":{port}"), f"server.listen does not use port {port}")
    for service in k8s.all("Service"):
        targets = [p.get("targetPort") for p in service["spec"]["ports"]]
        name = f"Service {service['metadata']['name']}"
        require(targets == ["grpc"], f"{name} does not lead to the port grpc")
        protocols = [p.get("appProtocol") for p in service["spec"]["ports"]]
        expected = "https" if k8s.encrypts() else "kubernetes.io/h2c"
        require(protocols == [expected], f"{name}: appProtocol is {protocols}, not {expected}")
    require(f"\nEXPOSE {port}\n" in dockerfile, f"the Dockerfile does not expose port {port}")
    return f"port {port} everywhere"


def check_selectors(k8s):
    labels = k8s.template["metadata"]["labels"]
    selectors = {"StatefulSet": k8s.stateful_set["spec"]["selector"]["matchLabels"]}
    for kind, field in (("Service", None), ("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for document in k8s.all(kind):
            spec = document["spec"]
            name = f"{kind} {document['metadata']['name']}"
            selectors[name] = spec[field]["matchLabels"] if field else spec["selector"]
    for spread in k8s.pod["topologySpreadConstraints"]:
        selectors[f"topology spread {spread['topologyKey']}"] = spread["labelSelector"]["matchLabels"]
    for name, selector in selectors.items():
        require(selector and selector.items() <= labels.items(), f"{name} does not select the pods")
    services = {s["metadata"]["name"]: s for s in k8s.all("Service")}
    governing = services.get(k8s.stateful_set["spec"]["serviceName"])
    require(governing and governing["spec"].get("clusterIP") == "None", "serviceName is not a headless Service")
    return f"{len(selectors)} selectors select the pods"


def check_security(k8s, dockerfile):
    pod, container = k8s.pod["securityContext"], k8s.container["securityContext"]
    require(k8s.pod.get("automountServiceAccountToken") is False, "automountServiceAccountToken is not false")
    require(k8s.pod.get("enableServiceLinks") is False, "enableServiceLinks is not false")
    require(pod.get("runAsNonRoot") is True, "runAsNonRoot is not true")
    require(pod.get("seccompProfile", {}).get("type") == "RuntimeDefault", "seccompProfile is not RuntimeDefault")
    opened = {"procMount", "seccompProfile", "appArmorProfile"} & container.keys()
    if k8s.variable("SESSION_POOL__CLI__SANDBOX") == "bubblewrap":
        require(container.get("procMount") == "Unmasked", "procMount is not Unmasked, and the sandbox is bubblewrap")
        require(k8s.pod.get("hostUsers") is False, "procMount is Unmasked, and hostUsers is not false")
        profile = container.get("seccompProfile", {}).get("localhostProfile")
        require(profile == SECCOMP_ON_NODES, f"seccompProfile is {profile}, not {SECCOMP_ON_NODES}")
    else:
        require(not opened, f"{sorted(opened)} of the container opens what only bubblewrap needs")
    require(container.get("allowPrivilegeEscalation") is False, "allowPrivilegeEscalation is not false")
    require(container.get("readOnlyRootFilesystem") is True, "readOnlyRootFilesystem is not true")
    require(container.get("capabilities") == {"drop": ["ALL"]}, "capabilities are not just drop ALL")
    users = re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE)
    expected = f"{pod.get('runAsUser')}:{pod.get('runAsGroup')}"
    require(users == [expected], f"runAsUser:runAsGroup is {expected}, the Dockerfile's USER is {users}")
    return "pod and container security settings; the image's user"


def check_access(k8s):
    """A NetworkPolicy names who may come in; without authentication it is all that does."""
    policies = k8s.all("NetworkPolicy")
    require(policies, "there is no NetworkPolicy")
    nodes = k8s.stateful_set["spec"]["selector"]["matchLabels"]
    for policy in policies:
        spec = policy["spec"]
        require({"Ingress", "Egress"} <= set(spec["policyTypes"]), "the NetworkPolicy must cover both directions")
        for rule in spec.get("ingress", []):
            selectors = [peer.get("podSelector", {}).get("matchLabels") for peer in rule.get("from", [])]
            require(selectors and all(selectors), "the NetworkPolicy admits more than labelled pods")
            ports = [p.get("port") for p in rule.get("ports", [])]
            name = "nodes" if selectors == [nodes] else "metrics" if selectors == [PROMETHEUS] else "grpc"
            require(ports == [k8s.port(name)], f"the NetworkPolicy admits ports {ports} to {selectors}")
    auth = k8s.config["auth"]
    asks = bool(auth.get("tokens_file")) or bool(k8s.config.get("tls", {}).get("client_ca"))
    insecure = auth.get("insecure", False)
    require(asks or insecure, "callers are neither asked who they are, nor is auth.insecure set")
    require(not (asks and insecure), "auth.insecure is set although callers are asked who they are")
    require(not asks or k8s.encrypts(), "tokens travel in plain text: tls.cert is not set")
    return f"callers are {'asked who they are' if asks else 'not asked'}, the NetworkPolicy names their pods"


def check_credentials(k8s, examples):
    """Files with credentials are keys of Secrets, mounted as folders so that they follow them."""
    files = {f"tls.{key}": file for key, file in k8s.config.get("tls", {}).items()}
    others = [("auth", "tokens_file"), ("gateway", "api_key_file"), ("store", "url_file")]
    others += [("cluster", key) for key in ("ca", "cert", "key")]
    for section, key in others:
        if file := k8s.config.get(section, {}).get(key):
            files[f"{section}.{key}"] = file
    volumes = {v["name"]: v["secret"] for v in k8s.pod["volumes"] if "secret" in v}
    mounts = {m["mountPath"]: m for m in k8s.container["volumeMounts"] if m["name"] in volumes}
    for key, file in files.items():
        folder, _, name = file.rpartition("/")
        require(folder in mounts, f"{key}: no Secret is mounted at '{folder}'")
        mount = mounts[folder]
        require("subPath" not in mount and mount.get("readOnly"), f"{key}: the mount is writable, or of one file")
        volume = volumes[mount["name"]]
        # Not for all users, and for the group that fsGroup makes the service's.
        require(volume.get("defaultMode") == 0o440, f"{key}: the volume's defaultMode is not 0440")
        known = examples.get(volume["secretName"], {})
        require(name in known, f"{key}: no secrets.example.yaml has {volume['secretName']}/{name}")
        if name == "tokens.toml":
            require(set(tomllib.loads(known[name])) == {"token"}, f"{key}: the example is not a tokens file")
    return f"{len(files)} files of credentials come from Secrets"


def check_secret(k8s):
    """The key for the API is a file of the service's alone: check_credentials looks at the Secret behind it."""
    require(not k8s.all("Secret"), "a Secret is part of the kustomization")
    variables = [e["name"] for e in k8s.container["env"] if "secretKeyRef" in e.get("valueFrom", {})]
    require(not variables, f"agents can read {variables}, which come from a Secret")
    file = k8s.setting("gateway", "api_key_file")
    require(file, "gateway.api_key_file is not set")
    volumes = {v["name"]: v["secret"] for v in k8s.pod["volumes"] if "secret" in v}
    mounts = {m["mountPath"]: m["name"] for m in k8s.container["volumeMounts"]}
    volume = volumes.get(mounts.get(file.rpartition("/")[0]), {})
    require(volume.get("optional") is False, "gateway.api_key_file: its Secret is optional")
    return "the API key comes from a required Secret, as a file"


def check_state(k8s):
    claims = {c["metadata"]["name"] for c in k8s.stateful_set["spec"]["volumeClaimTemplates"]}
    mounts = [m["mountPath"] for m in k8s.container["volumeMounts"] if m["name"] in claims]
    state_dir = k8s.config.get("state_dir", "")
    inside = any(state_dir.startswith(mount + "/") for mount in mounts)
    require(inside, f"state_dir '{state_dir}' is not a folder inside a claimed volume {mounts}")
    for volume in k8s.pod["volumes"]:
        limited = "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"]
        require(limited, f"emptyDir {volume['name']} has no sizeLimit")
    return "state_dir lies inside the claimed volume"


def check_as_it_stands(name, k8s, manifest):
    """Whoever applies it without a change gets what exists and what works."""
    version = tomllib.loads(manifest.read_text())["package"]["version"]
    image = k8s.container["image"]
    tagged = image.endswith(f"session-pool:{version}")
    require(tagged, f"{name}: the image is {image}, and the version of Cargo.toml is {version}")
    replicas = k8s.stateful_set["spec"]["replicas"]
    require(replicas == 1 or k8s.is_of_several(), f"{name}: {replicas} replicas without a store that they share")
    architecture = k8s.pod.get("nodeSelector", {}).get("kubernetes.io/arch")
    # An image for one architecture is what `docker build` makes; components/multi-arch is for the other kind.
    require(architecture == "amd64", f"{name}: nodeSelector is for {architecture}, the image is for amd64")
    return f"{name}: image {image}, replicas: {replicas}, machines of {architecture}"


def check_images_of_overlay(kustomization):
    known = {image["name"] for image in yaml.safe_load(kustomization.read_text())["images"]}
    require(known == {"session-pool"}, f"overlays/example names the images {known}, not session-pool")
    return "overlays/example names the base's image"


def check_same_settings(base, name, overlay, own):
    """The configuration stands in the overlay as a whole; it must not fall behind the base's."""

    def common(config):
        rest = {section: values for section, values in config.items() if section not in own}
        return rest | {"server": {k: v for k, v in rest["server"].items() if k not in LISTENERS}}

    require(common(base.config) == common(overlay.config), f"{name}: config.toml differs from the base's")
    return f"{name}: the base's settings{', but for ' if own else ''}{', '.join(own)}"


def check_tls(tls):
    require(tls.encrypts() and tls.config["auth"].get("tokens_file"), "overlays/tls: no TLS, or no tokens")
    return "overlays/tls: TLS and tokens"


def check_nodes(k8s):
    """Nodes have names of their own, and are reached where they say."""
    port = k8s.port("nodes")
    require(k8s.setting("cluster", "listen").endswith(f":{port}"), f"cluster.listen does not use port {port}")
    variables = {e["name"]: e.get("value") for e in k8s.container["env"]}
    require(variables.get("SESSION_POOL__CLUSTER__NODE") == "$(POD_NAME)", "cluster.node is not the pod's name")
    governing = k8s.stateful_set["spec"]["serviceName"]
    advertised = variables.get("SESSION_POOL__CLUSTER__ADVERTISE")
    expected = f"$(POD_NAME).{governing}.$(POD_NAMESPACE).svc:{port}"
    require(advertised == expected, f"cluster.advertise is {advertised}, not {expected}")
    services = {s["metadata"]["name"]: s["spec"] for s in k8s.all("Service")}
    published = services[governing].get("publishNotReadyAddresses")
    require(published is True, f"Service {governing} hides nodes that drain (publishNotReadyAddresses)")
    metrics = k8s.setting("server", "metrics_listen").rpartition(":")[2]
    scraped = k8s.template["metadata"]["annotations"]["prometheus.io/port"]
    require(metrics == scraped == str(k8s.port("metrics")), f"figures are at {metrics}, and looked for at {scraped}")
    return f"nodes reach each other at port {port}, by their pods' names; figures at port {metrics}"


def check_autoscaling(k8s, adapter):
    """What the autoscaler asks for is what the adapter's rules make, and its bounds are those of a node."""
    spec = k8s.only("HorizontalPodAutoscaler")["spec"]
    require(spec["minReplicas"] == k8s.stateful_set["spec"]["replicas"], "minReplicas differs from the StatefulSet's")
    asked = {m["pods"]["metric"]["name"]: m["pods"]["target"]["averageValue"] for m in spec["metrics"]}
    made = {rule["name"]["as"] for rule in yaml.safe_load(adapter.read_text())["rules"]}
    require(set(asked) == made, f"the autoscaler asks for {sorted(asked)}, and the adapter has {sorted(made)}")
    sessions, processes = int(asked["session_pool_sessions_active"]), k8s.setting("pool", "max_processes")
    require(sessions < processes, f"the autoscaler waits for {sessions} sessions, and a node has {processes} processes")
    return f"the autoscaler adds nodes from {sessions} of {processes} processes on"


def check_proxy(k8s):
    """What Envoy is told agrees with the nodes behind it and the Service before it."""
    deployment = k8s.only("Deployment", proxy=True)
    pod, labels = deployment["spec"]["template"]["spec"], deployment["spec"]["template"]["metadata"]["labels"]
    for kind, field in (("Service", None), ("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        spec = k8s.only(kind, proxy=True)["spec"]
        selector = spec[field]["matchLabels"] if field else spec["selector"]
        require(selector.items() <= labels.items(), f"the proxy's {kind} does not select its pods")
    admitted = k8s.only("NetworkPolicy")["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    require(admitted.items() <= labels.items(), "the nodes' NetworkPolicy does not admit the proxy")
    require(not k8s.template["metadata"]["labels"].items() <= labels.items(), "the proxy is taken for a node")
    security = pod["containers"][0]["securityContext"]
    require(security["capabilities"] == {"drop": ["ALL"]}, "the proxy's capabilities are not just drop ALL")

    envoy = yaml.safe_load(k8s.only("ConfigMap", proxy=True)["data"]["envoy.yaml"])["static_resources"]
    (listener,), (cluster,) = envoy["listeners"], envoy["clusters"]
    listens = listener["address"]["socket_address"]["port_value"]
    ports = {p["name"]: p["containerPort"] for p in pod["containers"][0]["ports"]}
    (port,) = k8s.only("Service", proxy=True)["spec"]["ports"]
    require(ports.get(port["targetPort"]) == listens, f"Envoy listens at {listens}, and its Service leads elsewhere")
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    node = endpoint["endpoint"]["address"]["socket_address"]
    expected = {"address": k8s.stateful_set["spec"]["serviceName"], "port_value": k8s.port()}
    require(node == expected, f"Envoy's nodes are at {node}, not {expected}")
    asked = cluster["health_checks"][0]["grpc_health_check"]["service_name"]
    require(asked == SERVICE, f"Envoy asks nodes for '{asked}', not for {SERVICE}")
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    (policy,) = route["route"]["hash_policy"]
    hashed = (cluster["lb_policy"], policy["header"]["header_name"])
    require(hashed == ("RING_HASH", "session-id"), f"Envoy chooses a node by {hashed}")
    limits = (manager["stream_idle_timeout"], route["route"]["timeout"])
    require(limits == ("0s", "0s"), f"Envoy ends streams after {limits}")
    return "Envoy hashes on session-id over the nodes, and ends no stream"


def check_cli_version(dockerfile, locks):
    """Version and hash of the Dockerfile are a line of the lock file, for each architecture."""
    arguments = dict(re.findall(r"^ARG (CLAUDE_CLI_\w+)=(\S+)$", dockerfile, re.MULTILINE))
    version, versions = arguments.get("CLAUDE_CLI_VERSION"), []
    for argument, lock in zip(("CLAUDE_CLI_INTEGRITY", "CLAUDE_CLI_INTEGRITY_ARM64"), locks, strict=True):
        require(lock.is_file(), f".ci/{lock.name} is missing")
        pinned = [tuple(line.split()) for line in lock.read_text().splitlines()]
        integrity = arguments.get(argument)
        have = f"CLI {version} {integrity} of the Dockerfile"
        require((version, integrity) in pinned, f"{have} is not a line of .ci/{lock.name}")
        versions.append([line[0] for line in pinned])
    require(versions[0] == versions[1], f"the lock files of the CLI have other versions: {versions}")
    return f"CLI {version} of the Dockerfile is pinned in {' and '.join(lock.name for lock in locks)}"


def check_bubblewrap(k8s, seccomp):
    """The profile of the component allows what bubblewrap needs, and not what RuntimeDefault is there for."""
    profile = json.loads(seccomp.read_text())
    require(profile["defaultAction"] == "SCMP_ACT_ERRNO", "seccomp.json does not refuse what it does not name")
    allowed = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    require(allowed >= NAMESPACE_CALLS, f"seccomp.json lacks {sorted(NAMESPACE_CALLS - allowed)}")
    require(not allowed & REFUSED_CALLS, f"seccomp.json allows {sorted(allowed & REFUSED_CALLS)}")
    require(k8s.variable("SESSION_POOL__CLI__SANDBOX") == "bubblewrap", "the sandbox is not bubblewrap")
    return f"the sandbox is bubblewrap, with {len(allowed)} system calls"


def check_compose(k8s, compose, version):
    """The one machine of compose.yaml has the bounds of the pod, for the processes that it names."""
    (service,) = yaml.safe_load(compose.read_text())["services"].values()
    variables = service["environment"]
    require(service["image"] == f"session-pool:{version}", f"compose.yaml: the image is {service['image']}")
    processes = int(variables["SESSION_POOL__POOL__MAX_PROCESSES"])
    limit = SERVICE_MIB + processes * PROCESS_MIB + 1024
    require(service["mem_limit"] == f"{limit}m", f"compose.yaml: mem_limit is {service['mem_limit']}, not {limit}m")
    tasks = 512 + processes * 100 + MAX_TASKS * 5 // 4
    require(service["pids_limit"] == tasks, f"compose.yaml: pids_limit is {service['pids_limit']}, not {tasks}")
    needed = seconds(DRAIN_TIMEOUT) + seconds(STREAM_INTERRUPT_TIMEOUT) + CLOSE_SECONDS
    grace = seconds(service["stop_grace_period"])
    require(grace >= needed, f"compose.yaml: stop_grace_period is {grace:g} s, less than {needed:g} s")
    port = k8s.port()
    require(service["ports"] == [f"127.0.0.1:{port}:{port}"], f"compose.yaml publishes {service['ports']}")
    walls = (service["read_only"], service["cap_drop"], service["security_opt"])
    require(walls == (True, ["ALL"], ["no-new-privileges"]), f"compose.yaml: {walls}")
    require(service["healthcheck"]["test"] == ["CMD", "session-pool", "health"], "compose.yaml: another health check")
    return f"compose.yaml: {processes} processes, {limit} MiB, {tasks} tasks, {grace:g} s to end"


def check_image(dockerfile, manifest):
    entry = re.findall(r"^ENTRYPOINT (.*)$", dockerfile, re.MULTILINE)
    require(len(entry) == 1 and json.loads(entry[0])[:2] == ["/usr/bin/tini", "--"], "tini is not the ENTRYPOINT")
    rust = re.search(r"^ARG RUST_VERSION=(\d+\.\d+\.\d+)$", dockerfile, re.MULTILINE)
    require(rust, "the Dockerfile's RUST_VERSION is not a full version")
    needed = tomllib.loads(manifest.read_text())["package"]["rust-version"]
    new_enough = [int(n) for n in rust[1].split(".")] >= [int(n) for n in needed.split(".")]
    require(new_enough, f"RUST_VERSION of the Dockerfile is {rust[1]}, Cargo.toml needs {needed}")
    return f"the image: tini is PID 1, Rust {rust[1]} satisfies Cargo.toml ({needed})"


def check_service_config(path):
    try:
        methods = json.loads(path.read_text())["methodConfig"]
    except json.JSONDecodeError as error:
        raise Problem(f"service_config.json is not JSON: {error}") from error
    seen = []
    for entry in methods:
        require("waitForReady" in entry and "timeout" in entry, "service_config.json: no waitForReady or timeout")
        for name in entry["name"]:
            require(name.get("service") == SERVICE, f"service_config.json: service '{name.get('service')}'")
            method = name.get("method")
            require(method, "service_config.json: an entry for every method would retry what must not be")
            seen.append(method)
            retried = "retryPolicy" in entry or "hedgingPolicy" in entry
            require(retried == (method in IDEMPOTENT), f"service_config.json: {method} retried: {retried}")
    require(len(seen) == len(set(seen)), "service_config.json: a method is listed twice")
    require({"Query", *IDEMPOTENT} <= set(seen), "service_config.json: Query or a read-only call is missing")
    codes = [e["retryPolicy"]["retryableStatusCodes"] for e in methods if "retryPolicy" in e]
    require(all(c == ["UNAVAILABLE"] for c in codes), f"service_config.json: retries on {codes}")
    return f"service_config.json: only {', '.join(sorted(IDEMPOTENT))} are retried"


def secrets_of(*files):
    """The keys and texts of the example Secrets, by the Secret's name."""
    documents = [d for file in files for d in yaml.safe_load_all(file.read_text()) if d]
    return {d["metadata"]["name"]: d["stringData"] for d in documents}


def check_rendered(k8s, dockerfile, examples):
    """What must hold for the base and for every overlay; yields a line for each check that passed."""
    yield check_probes(k8s)
    yield check_drain(k8s)
    yield check_memory(k8s)
    yield check_ports(k8s, dockerfile)
    yield check_selectors(k8s)
    yield check_security(k8s, dockerfile)
    yield check_access(k8s)
    yield check_credentials(k8s, examples)
    yield check_secret(k8s)
    yield check_state(k8s)


def main():
    root, paths = Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]]
    rendered = {path.stem.replace("overlays-", "overlays/"): Rendered(path) for path in paths}
    base, cluster, tls = rendered["base"], rendered["overlays/cluster"], rendered["overlays/tls"]
    bubblewrap = rendered["overlays/bubblewrap"]
    version = tomllib.loads((root / "Cargo.toml").read_text())["package"]["version"]
    deploy = root / "deploy"
    dockerfile = (deploy / "Dockerfile").read_text()
    kubernetes = deploy / "kubernetes"
    examples = secrets_of(
        kubernetes / "base/secret.example.yaml",
        *(kubernetes / f"overlays/{name}/secrets.example.yaml" for name in ("cluster", "tls")),
    )
    for name, k8s in rendered.items():
        for passed in check_rendered(k8s, dockerfile, examples):
            print(f"ok   {name}: {passed}")
        print(f"ok   {check_as_it_stands(name, k8s, root / 'Cargo.toml')}")
    print(f"ok   {check_same_settings(base, 'overlays/tls', tls, ('auth', 'tls'))}")
    print(f"ok   {check_tls(tls)}")
    print(f"ok   {check_same_settings(base, 'overlays/cluster', cluster, ('store', 'cluster'))}")
    print(f"ok   overlays/cluster: {check_nodes(cluster)}")
    print(f"ok   overlays/cluster: {check_proxy(cluster)}")
    adapter = kubernetes / "overlays/cluster/prometheus-adapter.yaml"
    print(f"ok   overlays/cluster: {check_autoscaling(cluster, adapter)}")
    print(f"ok   {check_images_of_overlay(kubernetes / 'overlays/example/kustomization.yaml')}")
    print(f"ok   {check_service_config(deploy / 'service_config.json')}")
    print(f"ok   {check_image(dockerfile, root / 'Cargo.toml')}")
    locks = [root / ".ci" / name for name in ("claude-cli.lock", "claude-cli-arm64.lock")]
    print(f"ok   {check_cli_version(dockerfile, locks)}")
    print(f"ok   {check_same_settings(base, 'overlays/bubblewrap', bubblewrap, ())}")
    seccomp = kubernetes / "components/bubblewrap/seccomp.json"
    print(f"ok   overlays/bubblewrap: {check_bubblewrap(bubblewrap, seccomp)}")
    print(f"ok   {check_compose(base, deploy / 'compose.yaml', version)}")


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"consistency: {problem}")
    except (KeyError, TypeError, AttributeError) as error:
        # A part that a check looks for is gone: a failure too, and the traceback says which.
        print(f"consistency: a part is missing: {error!r}", file=sys.stderr)
        raise
