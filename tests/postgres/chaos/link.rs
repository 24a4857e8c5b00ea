//! A way between two programs, which a test can make bad: cut, silent in one direction or both,
//! slow, or stopped at the message that it waits for. A TCP proxy; where it leads can change.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// How PostgreSQL's protocol says COMMIT.
pub const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// The state of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// Connections end, and none can be made.
    pub is_cut: bool,
    /// What is sent there does not arrive, and nobody is told.
    pub is_silent_there: bool,
    /// What is sent back does not arrive.
    pub is_silent_back: bool,
    /// What each message takes on its way, in each direction.
    pub delay: Duration,
}

impl Weather {
    pub const CUT: Self = Self { is_cut: true, ..Self::FAIR };
    pub const SILENT_THERE: Self = Self { is_silent_there: true, ..Self::FAIR };
    pub const SILENT_BACK: Self = Self { is_silent_back: true, ..Self::FAIR };
    pub const SILENT: Self = Self { is_silent_there: true, is_silent_back: true, ..Self::FAIR };
    pub const FAIR: Self = Self {
        is_cut: false,
        is_silent_there: false,
        is_silent_back: false,
        delay: Duration::ZERO,
    };

    pub fn slow(delay: Duration) -> Self {
        Self { delay, ..Self::FAIR }
    }
}

/// A link. It ends with its value.
pub struct Link {
    address: String,
    state: Arc<State>,
    /// Aborted with this value, and with it every connection.
    _accepting: JoinSet<()>,
}

struct State {
    target: Mutex<String>,
    weather: watch::Sender<Weather>,
    /// How often all connections were ended: a change that is taken back at once is not seen.
    broken: watch::Sender<u64>,
    /// What the next message that contains it waits for, and whether it does so.
    trap: Mutex<Option<Vec<u8>>>,
    trapped: watch::Sender<bool>,
    /// The answer to the next COMMIT is swallowed, and its connection cut.
    swallows: AtomicBool,
}

impl Link {
    /// Leads to this address.
    pub async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(State {
            target: Mutex::new(target),
            weather: watch::Sender::new(Weather::FAIR),
            broken: watch::Sender::new(0),
            trap: Mutex::default(),
            trapped: watch::Sender::new(false),
            swallows: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(pass(client, Arc::clone(&shared)));
            }
        });
        Self { address, state, _accepting: accepting }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// New connections lead there from now on; those that there are stay as they are.
    pub fn lead_to(&self, target: String) {
        *self.state.target.lock().expect("no panic") = target;
    }

    /// Ends all connections, and lets new ones in at once.
    pub fn break_all(&self) {
        self.state.broken.send_modify(|times| *times += 1);
    }

    pub fn set(&self, weather: Weather) {
        self.state.weather.send_replace(weather);
    }

    /// Holds the next message that contains this, and all that follows it on its connection.
    pub fn trap(&self, pattern: &[u8]) {
        *self.state.trap.lock().expect("no panic") = Some(pattern.to_vec());
    }

    /// Lets what is held go on to the trap that was set meanwhile.
    pub fn release_into_trap(&self) {
        self.state.trapped.send_replace(false);
    }

    /// Waits until a message is held; gives up after a while, and holds none then.
    pub async fn trapped(&self, limit: Duration) -> bool {
        let mut trapped = self.state.trapped.subscribe();
        let came = timeout(limit, trapped.wait_for(|it| *it)).await.is_ok();
        if !came {
            *self.state.trap.lock().expect("no panic") = None;
        }
        came
    }

    /// Lets what is held go on.
    pub fn release(&self) {
        *self.state.trap.lock().expect("no panic") = None;
        self.state.trapped.send_replace(false);
    }

    /// Swallows the answer to the next COMMIT.
    pub fn swallow_answer(&self) {
        self.state.swallows.store(true, Ordering::SeqCst);
    }
}

async fn pass(client: TcpStream, state: Arc<State>) {
    let (mut weather, mut broken) = (state.weather.subscribe(), state.broken.subscribe());
    if weather.borrow_and_update().is_cut {
        return;
    }
    let target = state.target.lock().expect("no panic").clone();
    let Ok(server) = TcpStream::connect(target).await else { return };
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let swallows = Arc::new(AtomicBool::new(false));
    tokio::select! {
        () = there(from_client, to_server, &state, &swallows) => {}
        () = back(from_server, to_client, &state, &swallows) => {}
        _ = weather.wait_for(|it| it.is_cut) => {}
        _ = broken.changed() => {}
    }
}

async fn there(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &State,
    swallows: &AtomicBool,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let message = &bytes[..count];
        state.arrives(|it| !it.is_silent_there).await;
        let is_awaited = {
            let mut trap = state.trap.lock().expect("no panic");
            let is =
                trap.as_ref().is_some_and(|it| message.windows(it.len()).any(|at| at == &**it));
            if is {
                *trap = None;
            }
            is
        };
        if is_awaited {
            state.trapped.send_replace(true);
            drop(state.trapped.subscribe().wait_for(|it| !*it).await);
        }
        if message.ends_with(COMMIT) && state.swallows.swap(false, Ordering::SeqCst) {
            swallows.store(true, Ordering::SeqCst);
        }
        if to.write_all(message).await.is_err() {
            return;
        }
    }
}

async fn back(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &State,
    swallows: &AtomicBool,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if swallows.load(Ordering::SeqCst) {
            return;
        }
        state.arrives(|it| !it.is_silent_back).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

impl State {
    /// Waits as long as a message is on its way.
    async fn arrives(&self, gets_through: impl Fn(&Weather) -> bool) {
        let mut weather = self.weather.subscribe();
        let delay = weather.borrow_and_update().delay;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        drop(weather.wait_for(gets_through).await);
    }
}
