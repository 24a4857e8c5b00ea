//! PostgreSQL for tests: one throw-away server for a whole test program, or one of a test's own,
//! and a database for each test. Debian's package is enough; the server runs as an unprivileged
//! user, on a loopback port that was free.
//!
//! A shell beside the server holds the other end of a pipe: when the test program is gone, however
//! it ended, it reads the end of the pipe, ends the server and removes its folder.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};

use super::ports::free_address;

/// Starts the server when told to, and ends with its input.
const KEEPER: &str = r#"
bin=$1 folder=$2 port=$3 pid=
shift 3
arguments=$*
start() {
  [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && return
  # Where only this shell sees its disk nobody else can make it.
  [ -d "$folder/data" ] \
    || "$bin/initdb" -U tester -A trust -E UTF8 --locale=C.UTF-8 --no-sync -D "$folder/data" >"$folder/log" || return
  "$bin/postgres" -D "$folder/data" -p "$port" -k "$folder" -h 127.0.0.1 -c fsync=off \
    -c full_page_writes=off -c max_connections=200 -c shared_buffers=32MB $arguments </dev/null >>"$folder/log" 2>&1 &
  pid=$!
}
while read -r order; do
  case $order in
    start) start ;;
    kill) kill -KILL "$pid"; wait "$pid" 2>/dev/null ;;
    # The one that starts others first, so that none is missed.
    pause) kill -STOP "$pid"; kill -STOP $(cat "/proc/$pid/task/$pid/children") ;;
    resume) kill -CONT $(cat "/proc/$pid/task/$pid/children"); kill -CONT "$pid" ;;
  esac
done
[ -z "$pid" ] || { kill -CONT "$pid" $(cat "/proc/$pid/task/$pid/children"); kill -QUIT "$pid"; wait "$pid"; } 2>/dev/null
rm -rf "$folder" 2>/dev/null
"#;

/// Has the server's folder be a small file system in memory, which only what is started from here sees.
const ON_A_SMALL_DISK: &str = r#"
disk=$1 user=$2 group=$3; shift 3
mount -t tmpfs -o "size=192m,mode=0700,uid=$user,gid=$group" tmpfs "$disk"
exec setpriv --reuid "$user" --regid "$group" --clear-groups "$@"
"#;

/// Runs PgBouncer until its input ends.
const BOUNCER_KEEPER: &str = r#"
/usr/sbin/pgbouncer -q "$1/bouncer.ini" </dev/null >"$1/log" 2>&1 & pid=$!
read -r order
kill "$pid"; wait "$pid"
rm -rf "$1"
"#;

/// PgBouncer in transaction mode before a server: fewer connections to the server than clients
/// have, so that these share them.
pub struct Bouncer {
    port: u16,
    keeper: Child,
}

/// A server.
pub struct Server {
    port: u16,
    bin: PathBuf,
    folder: PathBuf,
    keeper: Mutex<Child>,
    databases: AtomicUsize,
}

/// The folder of the newest version that is installed.
fn programs() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let version = |path: &PathBuf| {
        let name = path.parent().and_then(Path::file_name).unwrap_or_default();
        name.to_string_lossy().parse::<u32>().unwrap_or_default()
    };
    let mut found: Vec<PathBuf> =
        installed.filter_map(Result::ok).map(|entry| entry.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
    found.sort_by_key(version);
    found.pop()
}

/// User and group of the server: its own on Debian, else nobody's. `None` if we are not root.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = users.lines().find_map(|line| line.strip_prefix("postgres:"));
    let ids = entry.and_then(|rest| {
        let mut fields = rest.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    Some(ids.unwrap_or((65534, 65534)))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = user() {
        command.uid(user).gid(group);
    }
    command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin");
    command
}

fn folder() -> PathBuf {
    let folder = tempfile::Builder::new().prefix("pg").tempdir().expect("a folder").keep();
    if let Some((user, group)) = user() {
        chown(&folder, Some(user), Some(group)).expect("given away");
    }
    folder
}

/// A file that the server alone reads.
fn give(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its own");
    if let Some((user, group)) = user() {
        chown(path, Some(user), Some(group)).expect("given away");
    }
}

impl Bouncer {
    /// The one before the server that all tests of this program share; `None`, loudly, where
    /// PgBouncer or PostgreSQL is not installed. In CI that is a failure.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Bouncer>> = OnceLock::new();
        SHARED.get_or_init(|| Self::before(Server::shared()?)).as_ref()
    }

    /// One before this server.
    pub fn before(server: &Server) -> Option<Self> {
        if !Path::new("/usr/sbin/pgbouncer").exists() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "PgBouncer is not installed");
            eprintln!("SKIPPED, what is to be tried through PgBouncer: it is not installed");
            return None;
        }
        let (folder, port) = (folder(), free_address().port());
        let users = folder.join("users");
        fs::write(&users, "\"tester\" \"\"\n").expect("written");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
             pool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 500\n",
            server.port,
            users.display()
        );
        fs::write(folder.join("bouncer.ini"), settings).expect("written");
        let keeper = command(Path::new("/bin/sh"))
            .args(["-c", BOUNCER_KEEPER, "keeper"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn();
        let bouncer = Self { port, keeper: keeper.expect("started") };
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(bouncer);
            }
            sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        panic!("PgBouncer does not start: {log}");
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Server {
    /// The server that all tests of this program share; `None`, loudly, where PostgreSQL is not
    /// installed. In CI that is a failure.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// A server of the test's own, which it may treat as it likes.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same with further arguments of the server.
    pub fn start_with(arguments: &[&str]) -> Option<Self> {
        Self::start_as(None, arguments)
    }

    /// One whose commits are on the disk when they are answered, as in earnest.
    pub fn durable() -> Option<Self> {
        Self::start_with(&["-c", "fsync=on", "-c", "full_page_writes=on"])
    }

    /// One with this certificate and its key.
    pub fn start_with_tls(issued: &(String, String)) -> Option<Self> {
        Self::start_as(Some(issued), &["-c", "ssl=on"])
    }

    fn start_as(issued: Option<&(String, String)>, arguments: &[&str]) -> Option<Self> {
        let Some(bin) = programs() else {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "PostgreSQL is not installed");
            eprintln!("SKIPPED, what is to be tried on PostgreSQL: it is not installed");
            return None;
        };
        let folder = folder();
        let made = command(&bin.join("initdb"))
            .args(["-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"])
            .arg("-D")
            .arg(folder.join("data"))
            .output()
            .expect("run");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        if let Some((cert, key)) = issued {
            give(&folder.join("data/server.crt"), cert);
            give(&folder.join("data/server.key"), key);
        }
        let server = Self::kept(bin, folder, arguments);
        server.begin();
        Some(server)
    }

    /// The same on a disk that can be filled; root alone can make one.
    pub fn start_on_a_small_disk(arguments: &[&str]) -> Option<Self> {
        let (bin, (user, group), folder) = (programs()?, user()?, folder());
        let port = free_address().port();
        let mut keeper = Command::new("unshare");
        keeper
            .args(["--mount", "--propagation", "private", "sh", "-c", ON_A_SMALL_DISK, "disk"])
            .arg(&folder)
            .args([user.to_string(), group.to_string()])
            .args(["sh", "-c", KEEPER, "keeper"]);
        // Old segments of the log are not kept for later.
        let small = ["-c", "min_wal_size=32MB", "-c", "max_wal_size=32MB"];
        let server = Self::kept_by(keeper, port, bin, folder, &[&small, arguments].concat());
        server.begin();
        Some(server)
    }

    fn filler(&self) -> PathBuf {
        let keeper = self.keeper.lock().expect("no panic").id();
        PathBuf::from(format!("/proc/{keeper}/root{}/filler", self.folder.display()))
    }

    /// Takes all the room that is left on its small disk.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.filler()).expect("made");
        for size in [1 << 20, 64 << 10, 4 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    pub fn make_room(&self) {
        fs::remove_file(self.filler()).expect("removed");
    }

    /// A standby of this server, which follows it and can take its place. From now on the server
    /// tells nothing committed that the standby does not have.
    pub async fn standby(&self, arguments: &[&str]) -> Self {
        let folder = folder();
        let copied = command(&self.bin.join("pg_basebackup"))
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "tester"])
            .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast"])
            .args(["--no-sync", "-D"])
            .arg(folder.join("data"))
            .output()
            .expect("run");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let standby = Self::kept(self.bin.clone(), folder, arguments);
        standby.begin();
        let mut connection = self.connect("postgres").await;
        for order in ["ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"]
        {
            sqlx::raw_sql(order).execute(&mut connection).await.expect("ordered");
        }
        loop {
            let found = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            let found: i64 =
                sqlx::query_scalar(found).fetch_one(&mut connection).await.expect("answered");
            if found > 0 {
                return standby;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has a standby take the place of its server.
    pub async fn promote(&self) {
        let mut connection = self.connect("postgres").await;
        sqlx::raw_sql("SELECT pg_promote()").execute(&mut connection).await.expect("promoted");
    }

    fn kept(bin: PathBuf, folder: PathBuf, arguments: &[&str]) -> Self {
        let mut keeper = command(Path::new("/bin/sh"));
        keeper.args(["-c", KEEPER, "keeper"]);
        Self::kept_by(keeper, free_address().port(), bin, folder, arguments)
    }

    fn kept_by(
        mut keeper: Command,
        port: u16,
        bin: PathBuf,
        folder: PathBuf,
        arguments: &[&str],
    ) -> Self {
        let keeper = keeper
            .args([&bin, &folder])
            .arg(port.to_string())
            .args(arguments)
            .stdin(Stdio::piped())
            // What is meant for the test program does not end it.
            .process_group(0)
            .spawn()
            .expect("started");
        let (keeper, databases) = (Mutex::new(keeper), AtomicUsize::new(0));
        Self { port, bin, folder, keeper, databases }
    }

    fn order(&self, order: &str) {
        let mut keeper = self.keeper.lock().expect("no panic");
        writeln!(keeper.stdin.as_mut().expect("a pipe"), "{order}").expect("told");
    }

    /// Starts it, and waits until it can be used.
    pub fn begin(&self) {
        for _ in 0..600 {
            // One that found its memory in use by those before it has ended, and is started anew.
            self.order("start");
            let ready = command(&self.bin.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status();
            if ready.expect("run").success() {
                return;
            }
            sleep(Duration::from_millis(100));
        }
        panic!("the server does not start");
    }

    /// Kills it, as a machine does that loses its power.
    pub fn kill(&self) {
        self.order("kill");
    }

    /// Stops all of its processes where they are, or has them go on.
    pub fn pause(&self, is_paused: bool) {
        self.order(if is_paused { "pause" } else { "resume" });
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The connection string of a database, by this address.
    pub fn url_by(address: &str, database: &str) -> String {
        format!("postgres://tester:sesame@{address}/{database}?sslmode=disable")
    }

    /// A connection that a test has beside those of the service.
    pub async fn connect(&self, database: &str) -> PgConnection {
        let url = Self::url_by(&self.address(), database);
        let options: sqlx::postgres::PgConnectOptions = url.parse().expect("a URL");
        options.connect().await.expect("connected")
    }

    /// The name of a new database.
    pub async fn database(&self) -> String {
        let name = format!("db{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect("postgres").await;
        let made = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(AssertSqlSafe(made)).execute(&mut connection).await.expect("made");
        connection.close().await.expect("closed");
        name
    }

    /// The connection string of a new database.
    pub async fn url(&self) -> String {
        Self::url_by(&self.address(), &self.database().await)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().expect("ended");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut().expect("no panic");
        drop(keeper.stdin.take());
        keeper.wait().expect("ended");
        // What a small disk was mounted on.
        fs::remove_dir(&self.folder).ok();
    }
}
