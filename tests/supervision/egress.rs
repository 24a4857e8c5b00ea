//! What an agent finds of the operator's key, and where it gets to, with the gateway and
//! `policy.egress`: tried by the real CLI's Bash tool in `bubblewrap`.

use std::{collections::BTreeSet, fs, net::SocketAddr};

use session_pool::{internals::tasks::spawn_owned, proto::turn_event::Kind};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use crate::{
    bed::Bed,
    support::{eventually, turn::Turn},
    view::{bash, bash_turn, printed},
};

const KEY: &str = "sk-ant-the-real-one";

/// Looks for the key, whose parts are put together only here, in what it can read of all
/// processes that it sees.
const SEARCH: &str = r#"import glob, os, re
key = b"-".join([b"sk-ant", b"the", b"real", b"one"])
found = []
for folder in glob.glob("/proc/[0-9]*"):
    for name in ("environ", "cmdline"):
        try:
            if key in open(f"{folder}/{name}", "rb").read():
                found.append(f"{folder}/{name}")
        except OSError:
            pass
    if folder == f"/proc/{os.getpid()}":
        continue
    try:
        memory, looked = open(f"{folder}/mem", "rb", 0), 0
        for line in open(f"{folder}/maps"):
            begin, end, mode = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
            if not mode.startswith("rw"):
                continue
            try:
                memory.seek(int(begin, 16))
                part = memory.read(min(int(end, 16) - int(begin, 16), 64 << 20))
            except (OSError, ValueError, OverflowError):
                continue
            looked += len(part)
            if key in part:
                found.append(f"{folder}/mem")
        print("looked at", folder, looked > 0)
    except OSError:
        pass
for root in (os.environ["HOME"], os.environ["CLAUDE_CONFIG_DIR"], "/tmp", "/etc", "/run", ".", KEYFOLDER):
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and key in open(path, "rb").read(16 << 20):
                    found.append(path)
            except OSError:
                pass
print("found", found)
"#;

/// Tries to connect to places, by itself and by the proxy.
const CONNECT: &str = r#"import socket, sys
try:
    socket.getaddrinfo("example.com", 443)
    print("names: resolved")
except OSError:
    print("names: none")
for place in sys.argv[1:]:
    host, port = place.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 3)
        print("direct", place, "open")
    except OSError:
        print("direct", place, "closed")
    way = socket.create_connection(("127.0.0.1", 8462), 3)
    way.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
    said = b""
    while b"\r\n\r\n" not in said:
        said += way.recv(1000)
    answer = said.decode().split(" ")[1]
    if answer == "200":
        while more := way.recv(1000):
            said += more
        answer += " " + said.decode().split("\r\n\r\n")[1]
    print("proxy", place, answer)
"#;

/// Somebody who says who it is to whoever connects.
async fn somebody(name: &'static str) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = socket.local_addr().expect("an address");
    drop(spawn_owned(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            stream.write_all(name.as_bytes()).await.ok();
        }
    }));
    address
}

/// Opens as many connections to the gateway as it can, and holds them.
const FLOOD: &str = r#"import socket, time
held = []
for _ in range(300):
    way = socket.create_connection(("127.0.0.1", 8462), 30)
    way.settimeout(0.05)
    held.append(way)
def is_open(way):
    try:
        return way.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False
# A machine that others use may take its time to close them.
until = time.monotonic() + 30
while len(held) > 32 and time.monotonic() < until:
    held = [way for way in held if is_open(way)]
print("closed", 300 - len(held), flush=True)
time.sleep(1000)
"#;

fn key_file() -> (TempDir, std::path::PathBuf) {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("key");
    fs::write(&file, KEY).expect("written");
    (folder, file)
}

/// A command that runs a program in Python.
fn python(program: &str, arguments: &str) -> String {
    format!("cat >tried.py <<'END'\n{program}\nEND\npython3 tried.py {arguments}")
}

/// The hosts that a turn was kept from, as its caller was told.
fn kept_from(turn: &Turn) -> BTreeSet<String> {
    let refused = turn.events.iter().filter_map(|event| match event.kind.as_ref()? {
        Kind::EgressRefused(refused) => {
            assert!(!refused.reason.is_empty());
            Some(refused.host.clone())
        }
        _ => None,
    });
    refused.collect()
}

#[tokio::test]
async fn an_agent_finds_the_key_nowhere() {
    for version in ["2.1.197", "2.1.332"] {
        let (folder, file) = key_file();
        let bed = Bed::behind_gateway("bubblewrap", version, &file, &[]).await;
        let place = format!("{:?}", folder.path().display().to_string());
        let told = bash(&bed, "a", &python(&SEARCH.replace("KEYFOLDER", &place), "")).await;
        assert!(told.contains("found []"), "{told}");
        assert!(told.contains("looked at") && told.contains("True"), "no memory was read: {told}");
        bed.stop().await;
    }
}

#[tokio::test]
async fn a_session_reaches_the_api_and_what_is_listed_and_nothing_else() {
    let (listed, other) = (somebody("the listed one").await, somebody("another").await);
    for version in ["2.1.197", "2.1.332"] {
        let (_folder, file) = key_file();
        let egress = format!("[\"{listed}\", \"localhost:*\"]");
        let settings = [("POLICY__EGRESS", egress.as_str())];
        let bed = Bed::behind_gateway("bubblewrap", version, &file, &settings).await;
        let own = bed.daemon.address.trim_start_matches("http://").to_owned();
        let by_name = format!("localhost:{}", other.port());
        let places = format!("{listed} {other} {own} 169.254.169.254:80 {by_name} example.org:443");
        let turn = bash_turn(&bed, "a", &python(CONNECT, &places)).await;
        let told = printed(&turn);
        assert!(told.contains("names: none"), "{told}");
        assert!(told.contains(&format!("proxy {listed} 200 the listed one")), "{told}");
        for place in places.split(' ') {
            assert!(told.contains(&format!("direct {place} closed")), "{place}: {told}");
            let refused = told.contains(&format!("proxy {place} 403"));
            assert_eq!(refused, place != listed.to_string(), "{place}: {told}");
            // Its caller is told, too.
            assert_eq!(kept_from(&turn).contains(place), refused, "{place}: {:?}", turn.events);
        }
        let log = bed.daemon.log();
        // Its CLI may have wanted to reach somebody, too.
        let is_of_it = |host: &str| places.split(' ').any(|place| place == host);
        let refused = log.iter().filter(|event| event["message"] == "egress_refused");
        let refused = refused.filter(|event| event["host"].as_str().is_some_and(is_of_it));
        assert_eq!(refused.count(), 5, "{log:?}");
        bed.stop().await;
    }
}

#[tokio::test]
async fn a_session_of_the_gateway_alone_leaves_no_network_behind() {
    let (_folder, file) = key_file();
    let settings = [("POLICY__EGRESS", "gateway"), ("POOL__SPARES", "1")];
    let bed = Bed::behind_gateway("bubblewrap", "2.1.332", &file, &settings).await;
    let other = somebody("another").await;
    let told = bash(&bed, "a", &python(CONNECT, &other.to_string())).await;
    assert!(told.contains(&format!("proxy {other} 403")), "{told}");
    let networks = || {
        let mut all: Vec<_> = bed
            .daemon
            .processes()
            .iter()
            .filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok())
            .collect();
        all.sort();
        all.dedup();
        all.len()
    };
    eventually("a spare", async || (networks() == 2).then_some(())).await;
    let sockets = || {
        let folder = format!("/proc/{}/fd", bed.daemon.id());
        let all = fs::read_dir(folder).expect("its descriptors");
        all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter(|link| link.to_string_lossy().starts_with("socket:"))
            .count()
    };
    let before = sockets();
    for session in ["b", "c"] {
        bash(&bed, session, "true").await;
        bed.close(session).await;
    }
    eventually("sockets are closed", async || (sockets() <= before).then_some(())).await;
    bed.stop().await;
}

#[tokio::test]
async fn an_agent_that_opens_many_connections_takes_nothing_from_others() {
    let (_folder, file) = key_file();
    let settings = [("POLICY__EGRESS", "gateway")];
    let bed = Bed::behind_gateway("bubblewrap", "2.1.332", &file, &settings).await;
    bash(&bed, "b", "true").await;
    let hold = ">told & until grep closed told; do sleep 0.1; done";
    let told = bash(&bed, "a", &python(FLOOD, hold)).await;
    // Its CLI has some of the thirty-two.
    let closed = told.split("closed ").nth(1).and_then(|rest| rest.get(..3)).map(str::to_owned);
    let closed: u32 = closed.and_then(|text| text.parse().ok()).unwrap_or_default();
    assert!((268..=300).contains(&closed), "{told}");
    let told = bash(&bed, "b", "echo still here").await;
    assert!(told.contains("still here"), "{told}");
    let holds = bash(&bed, "a", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await;
    assert!(holds.contains("python3 tried.py"), "they were held meanwhile: {holds}");
    bed.stop().await;
}
