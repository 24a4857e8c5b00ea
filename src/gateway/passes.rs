//! Which token is whose. A token is random, stands for one process, and is forgotten with it.
//! Tokens are looked up by their hash, so that how long a look takes says nothing of them.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::account::Account;
use crate::domain::{
    ids::{ClientId, TenantId},
    notice::Notice,
};

/// What a token begins with: the CLI wants to see a key of the API.
const PREFIX: &str = "sk-ant-session-pool-";

/// The time in which a tenant's tokens are counted together.
const MINUTE: Duration = Duration::from_secs(60);

pub(super) type Hash = [u8; 32];

/// The passes of all living processes.
#[derive(Debug)]
pub(super) struct Passes {
    by_hash: Arc<Mutex<HashMap<Hash, Arc<Account>>>>,
    minutes: Minutes,
}

/// When so many tokens were used, in that order.
type Uses = VecDeque<(Instant, u64)>;

/// The tokens of each tenant in the last minute.
#[derive(Debug, Clone)]
pub(super) struct Minutes {
    limit: Option<u64>,
    used: Arc<Mutex<HashMap<TenantId, Uses>>>,
}

/// What a process shows at the gateway. Dropped when the process has ended.
pub struct Pass {
    token: String,
    hash: Hash,
    account: Arc<Account>,
    by_hash: Weak<Mutex<HashMap<Hash, Arc<Account>>>>,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("account", &self.account).finish_non_exhaustive()
    }
}

impl Pass {
    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether what the process uses of the API is counted here.
    pub fn counts(&self) -> bool {
        self.account.counts()
    }

    /// What is to be told of the process and was not yet.
    pub fn notices(&self) -> Vec<Notice> {
        self.account.notices().take()
    }

    /// Waits until there is something.
    pub async fn noticed(&self) {
        self.account.notices().came().await;
    }

    /// What was used with it.
    pub fn account(&self) -> Arc<Account> {
        Arc::clone(&self.account)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.account.close();
        if let Some(passes) = self.by_hash.upgrade() {
            lock(&passes).remove(&self.hash);
        }
    }
}

impl Passes {
    pub(super) fn new(tokens_per_minute: Option<u64>) -> Self {
        let minutes = Minutes { limit: tokens_per_minute, used: Arc::default() };
        Self { by_hash: Arc::default(), minutes }
    }

    pub(super) fn issue(&self, tenant: &TenantId, process: ClientId, counts: bool) -> Pass {
        // Two random UUIDs have 244 random bits.
        let token = format!("{PREFIX}{}{}", Uuid::new_v4().as_simple(), Uuid::new_v4().as_simple());
        let account = Arc::new(Account::new(tenant.clone(), process, counts));
        let hash = hash_of(&token);
        lock(&self.by_hash).insert(hash, Arc::clone(&account));
        Pass { token, hash, account, by_hash: Arc::downgrade(&self.by_hash) }
    }

    /// Whose a token is.
    pub(super) fn of(&self, token: &[u8]) -> Option<Arc<Account>> {
        lock(&self.by_hash).get(&hash_of(token)).cloned()
    }

    /// What a tenant's processes have used that nobody has taken note of yet, in US dollars.
    pub(super) fn not_taken(&self, tenant: &TenantId) -> f64 {
        let accounts: Vec<_> = lock(&self.by_hash).values().cloned().collect();
        let of_tenant = accounts.iter().filter(|account| account.tenant() == tenant);
        of_tenant.map(|account| account.not_taken()).sum()
    }

    pub(super) fn minutes(&self) -> &Minutes {
        &self.minutes
    }
}

impl Minutes {
    /// Takes note of tokens that a tenant has used.
    pub(super) fn add(&self, tenant: &TenantId, tokens: u64) {
        if self.limit.is_some() && tokens > 0 {
            lock(&self.used).entry(tenant.clone()).or_default().push_back((Instant::now(), tokens));
        }
    }

    /// How long a tenant has to wait until it may use more, if it has to.
    pub(super) fn wait(&self, tenant: &TenantId) -> Option<(u64, Duration)> {
        let limit = self.limit?;
        let mut all = lock(&self.used);
        let used = all.get_mut(tenant)?;
        let now = Instant::now();
        while used.front().is_some_and(|(at, _)| *at + MINUTE <= now) {
            used.pop_front();
        }
        let mut sum: u64 = used.iter().map(|(_, tokens)| tokens).sum();
        let mut wait = None;
        for (at, tokens) in used.iter() {
            if sum < limit {
                break;
            }
            sum = sum.saturating_sub(*tokens);
            wait = Some((limit, *at + MINUTE - now));
        }
        wait
    }
}

/// What stands for a secret where it is looked up.
pub(super) fn hash_of(token: impl AsRef<[u8]>) -> Hash {
    Sha256::digest(token.as_ref()).into()
}

fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_as_long_as_its_pass_and_shown_nowhere() {
        let passes = Passes::new(None);
        let tenant = TenantId::default();
        let (one, other) = (
            passes.issue(&tenant, ClientId::fresh(), true),
            passes.issue(&tenant, ClientId::fresh(), true),
        );
        assert_ne!(one.token(), other.token());
        assert!(!format!("{one:?} {passes:?}").contains(one.token()));
        let token = one.token().to_owned();
        assert_eq!(passes.of(token.as_bytes()).expect("known").process(), one.account().process());
        drop(one);
        assert!(passes.of(token.as_bytes()).is_none(), "its process has ended");
        assert!(passes.of(other.token().as_bytes()).is_some());
        assert!(passes.of(b"").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_s_tokens_are_a_tenant_s_and_come_back_as_they_went() {
        let minutes = Passes::new(Some(100)).minutes;
        let [one, other] = ["one", "other"].map(|name| TenantId::parse(name).expect("an id"));
        minutes.add(&one, 60);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(minutes.wait(&one), None);
        minutes.add(&one, 60);
        assert_eq!(minutes.wait(&one), Some((100, Duration::from_secs(40))));
        assert_eq!(minutes.wait(&other), None);
        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(minutes.wait(&one), None);
        // One request may be larger than a minute's share: the next waits until it is gone.
        minutes.add(&one, 1000);
        assert_eq!(minutes.wait(&one), Some((100, Duration::from_secs(60))));
    }
}
