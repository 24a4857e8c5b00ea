//! The spares that are ready, and what is known of the demand. Knows nothing of how a
//! spare is started; whoever parks one hears here what is to become of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    Miss, SpareClass, SpareSettings,
    demand::Demand,
    spare::{Spare, SpareKey, SpareSignal},
};
use crate::domain::{ids::TenantId, options::Options};

/// The first pause after a start that failed; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest of those pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// All spares.
#[derive(Debug)]
pub struct SparePool {
    settings: SpareSettings,
    state: Mutex<State>,
    /// Told when there may be something to start.
    pub changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<Ready>,
    /// Being started, or waiting for a place.
    starting: Vec<SpareKey>,
    /// By class.
    demand: Vec<Demand>,
    /// Kinds whose starts came to nothing lately.
    pauses: HashMap<SpareKey, Pause>,
    /// Tenants of those whose places are about to be free.
    leaving: Vec<TenantId>,
    numbers: u64,
}

/// Starts that came to nothing: of a class for one tenant, whose own files may be why.
#[derive(Debug)]
struct Pause {
    /// How many in a row.
    failures: u32,
    until: Instant,
}

#[derive(Debug)]
struct Ready {
    number: u64,
    key: SpareKey,
    signal: oneshot::Sender<SpareSignal>,
}

/// What is to be started now.
#[derive(Debug, Default)]
pub struct Plan {
    /// These.
    pub start: Vec<SpareKey>,
    /// When to look again, if starts are paused.
    pub again: Option<Instant>,
}

impl SparePool {
    /// None yet.
    pub fn new(settings: SpareSettings) -> Self {
        let demand = settings.classes.iter().map(|_| Demand::default()).collect();
        let state = State { demand, ..State::default() };
        Self { settings, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Whether any are ever kept.
    pub fn is_kept(&self) -> bool {
        !self.settings.classes.is_empty()
    }

    /// The longest time that a spare is kept.
    pub fn max_age(&self) -> Duration {
        self.settings.max_age
    }

    /// The options that the spares of a class are started with.
    pub fn options(&self, class: usize) -> &Options {
        &self.settings.classes[class].options
    }

    /// Takes a spare for a session that begins, and takes note of the demand.
    pub async fn take(&self, tenant: &TenantId, options: &Options) -> Result<Spare, Miss> {
        let wanted = options.at_start();
        let fits = |class: &SpareClass| {
            class.options == wanted && class.tenant.as_ref().is_none_or(|only| only == tenant)
        };
        let class = self.settings.classes.iter().position(fits).ok_or(Miss::Options)?;
        self.lock().demand[class].note(tenant);
        self.changed.notify_one();
        let key = (class, tenant.clone());
        loop {
            let taken = {
                let mut state = self.lock();
                let oldest = state.ready.iter().position(|ready| ready.key == key);
                oldest.map(|at| state.ready.remove(at))
            };
            let ready = taken.ok_or(Miss::NoneReady)?;
            let (reply, spare) = oneshot::channel();
            // One that died just then gives no answer.
            if ready.signal.send(SpareSignal::Taken(reply)).is_ok()
                && let Ok(spare) = spare.await
            {
                return Ok(spare);
            }
        }
    }

    /// Sends a spare away for somebody who waits for a place: any, or one of this tenant.
    pub fn give_way(&self, tenant: Option<&TenantId>) {
        let mut state = self.lock();
        let helps = |ready: &Ready| tenant.is_none_or(|only| *only == ready.key.1);
        let oldest = state.ready.iter().position(helps);
        if let Some(at) = oldest {
            state.send_away(at);
        }
    }

    /// Slots of spares that were sent away and are not free yet: of all, or of a tenant.
    pub fn leaving(&self, tenant: Option<&TenantId>) -> usize {
        let state = self.lock();
        state.leaving.iter().filter(|leaving| tenant.is_none_or(|only| only == *leaving)).count()
    }

    /// Ready ones: all, or a tenant's.
    pub fn ready(&self, tenant: Option<&TenantId>) -> usize {
        let state = self.lock();
        state.ready.iter().filter(|ready| tenant.is_none_or(|only| *only == ready.key.1)).count()
    }

    /// Those that are started or wait for a place: all, or a tenant's.
    pub fn starting(&self, tenant: Option<&TenantId>) -> usize {
        let state = self.lock();
        state.starting.iter().filter(|(_, of)| tenant.is_none_or(|only| only == of)).count()
    }

    /// What is missing, which counts as being started from now on. Those that nobody is
    /// likely to want any more are sent away.
    pub fn plan(&self) -> Plan {
        let mut state = self.lock();
        let mut wanted: BTreeMap<SpareKey, usize> = BTreeMap::new();
        for (number, class) in self.settings.classes.iter().enumerate() {
            let shares = match &class.tenant {
                Some(tenant) => [(tenant.clone(), class.count)].into(),
                None => state.demand[number].allot(class.count, self.settings.first.as_ref()),
            };
            wanted.extend(shares.into_iter().map(|(tenant, share)| ((number, tenant), share)));
        }
        state.send_surplus_away(&wanted);
        let now = Instant::now();
        let mut plan = Plan::default();
        for (key, share) in wanted {
            let missing = share.saturating_sub(state.count(&key));
            let pause = state.pauses.get(&key).map(|pause| pause.until);
            match pause.filter(|until| *until > now) {
                None => plan.start.extend(std::iter::repeat_n(key, missing)),
                Some(until) if missing > 0 => {
                    plan.again = Some(plan.again.map_or(until, |again| again.min(until)));
                }
                Some(_) => {}
            }
        }
        state.starting.extend(plan.start.iter().cloned());
        plan
    }

    /// A spare is ready from now on. Returns its number and where its signal arrives.
    pub fn park(&self, key: SpareKey) -> (u64, oneshot::Receiver<SpareSignal>) {
        let (signal, heard) = oneshot::channel();
        let mut state = self.lock();
        state.started(&key);
        state.numbers += 1;
        let number = state.numbers;
        state.ready.push(Ready { number, key, signal });
        (number, heard)
    }

    /// A spare could not be started.
    pub fn failed(&self, key: &SpareKey) {
        let mut state = self.lock();
        state.started(key);
        state.fail(key);
        drop(state);
        self.changed.notify_one();
    }

    /// A spare that was ready has ended, or has been taken: `well` if it had shown that its
    /// class works.
    pub fn lasted(&self, key: &SpareKey, well: bool) {
        let mut state = self.lock();
        if well {
            state.pauses.remove(key);
        } else {
            state.fail(key);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// A spare is of no use any more. Returns whether nobody has taken it before.
    pub fn unpark(&self, number: u64) -> bool {
        let mut state = self.lock();
        let there = state.ready.iter().position(|ready| ready.number == number);
        if let Some(at) = there {
            state.ready.remove(at);
            drop(state);
            self.changed.notify_one();
        }
        there.is_some()
    }

    /// The place of a spare that was sent away is free.
    pub fn left(&self, tenant: &TenantId) {
        let mut state = self.lock();
        if let Some(at) = state.leaving.iter().position(|leaving| leaving == tenant) {
            state.leaving.remove(at);
        }
        drop(state);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Each failure doubles the pause before the next start.
    fn fail(&mut self, key: &SpareKey) {
        let failures = self.pauses.get(key).map_or(0, |pause| pause.failures);
        let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
        let until = Instant::now() + pause;
        self.pauses.insert(key.clone(), Pause { failures: failures + 1, until });
    }

    fn count(&self, key: &SpareKey) -> usize {
        self.ready.iter().filter(|ready| ready.key == *key).count()
            + self.starting.iter().filter(|starting| *starting == key).count()
    }

    fn started(&mut self, key: &SpareKey) {
        if let Some(at) = self.starting.iter().position(|starting| starting == key) {
            self.starting.remove(at);
        }
    }

    fn send_away(&mut self, at: usize) {
        let Ready { key: (_, tenant), signal, .. } = self.ready.remove(at);
        if signal.send(SpareSignal::Away).is_ok() {
            self.leaving.push(tenant);
        }
    }

    fn send_surplus_away(&mut self, wanted: &BTreeMap<SpareKey, usize>) {
        let mut left = wanted.clone();
        // The youngest stay: they may live longest.
        for at in (0..self.ready.len()).rev() {
            match left.get_mut(&self.ready[at].key) {
                Some(share) if *share > 0 => *share -= 1,
                _ => self.send_away(at),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a name")
    }

    fn spares(count: usize) -> SparePool {
        let class = SpareClass { options: Options::default(), count, tenant: None };
        SparePool::new(SpareSettings {
            classes: vec![class],
            max_age: Duration::from_secs(60),
            first: Some(tenant("a")),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_is_started_once() {
        let spares = spares(2);
        assert_eq!(spares.plan().start, [(0, tenant("a")), (0, tenant("a"))]);
        assert!(spares.plan().start.is_empty(), "they are being started");
        let (number, _fate) = spares.park((0, tenant("a")));
        assert_eq!((spares.ready(None), spares.starting(None)), (1, 1));
        assert!(spares.unpark(number), "nobody took it");
        assert_eq!(spares.plan().start, [(0, tenant("a"))]);
    }

    #[tokio::test(start_paused = true)]
    async fn spares_follow_the_demand() {
        let spares = spares(1);
        spares.plan();
        let (_, mut signal) = spares.park((0, tenant("a")));
        let missed = spares.take(&tenant("b"), &Options::default()).await;
        assert_eq!(missed.err(), Some(Miss::NoneReady));
        assert_eq!(spares.plan().start, [(0, tenant("b"))]);
        assert!(matches!(signal.try_recv(), Ok(SpareSignal::Away)), "nobody wants it any more");
        assert_eq!((spares.leaving(None), spares.leaving(Some(&tenant("a")))), (1, 1));
        spares.left(&tenant("a"));
        assert_eq!(spares.leaving(None), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn starts_that_fail_are_paused_longer_and_longer() {
        let spares = spares(1);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert_eq!(spares.plan().start.len(), 1);
            spares.failed(&(0, tenant("a")));
            let plan = spares.plan();
            assert!(plan.start.is_empty());
            let again = plan.again.expect("paused");
            pauses.push((again - Instant::now()).as_secs());
            tokio::time::sleep_until(again).await;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[tokio::test(start_paused = true)]
    async fn spares_that_die_young_are_paused_too_and_others_are_not() {
        let of = |count, tools: &str| SpareClass {
            options: Options { tools: vec![tools.to_owned()], ..Options::default() },
            count,
            tenant: None,
        };
        let spares = SparePool::new(SpareSettings {
            classes: vec![of(1, "Read"), of(1, "Write")],
            max_age: Duration::from_secs(60),
            first: Some(tenant("a")),
        });
        assert_eq!(spares.plan().start.len(), 2);
        for (pause, key) in [1, 2].map(|pause| (pause, (0, tenant("a")))) {
            let (number, _fate) = spares.park(key.clone());
            assert!(spares.unpark(number));
            spares.lasted(&key, false);
            let plan = spares.plan();
            assert!(plan.start.is_empty(), "the other class has its spare under way");
            let again = plan.again.expect("paused");
            assert_eq!((again - Instant::now()).as_secs(), pause);
            tokio::time::sleep_until(again).await;
            assert_eq!(spares.plan().start, [key]);
        }
        spares.lasted(&(0, tenant("a")), true);
        spares.failed(&(0, tenant("a")));
        assert_eq!((spares.plan().again.expect("paused") - Instant::now()).as_secs(), 1);
        spares.failed(&(1, tenant("a")));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(spares.plan().start.len(), 2, "each class has its own pause");
    }

    #[tokio::test(start_paused = true)]
    async fn options_that_only_a_start_can_give_do_not_fit() {
        let spares = spares(1);
        let tools = Options { tools: vec!["Bash".into()], ..Options::default() };
        assert_eq!(spares.take(&tenant("a"), &tools).await.err(), Some(Miss::Options));
    }

    #[tokio::test(start_paused = true)]
    async fn the_tenants_own_goes_if_only_that_helps() {
        let spares = spares(2);
        spares.plan();
        let (_, mut of_a) = spares.park((0, tenant("a")));
        spares.give_way(Some(&tenant("b")));
        assert!(of_a.try_recv().is_err(), "it would not help");
        spares.give_way(None);
        assert!(matches!(of_a.try_recv(), Ok(SpareSignal::Away)));
    }
}
