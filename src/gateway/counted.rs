//! Where what a request has used goes: to its process's account and to its tenant's minute, each part
//! once, as it comes to be known.

use std::sync::Arc;

use super::{
    account::Account,
    passes::Minutes,
    prices::Prices,
    usage::{Tap, Used},
};

/// The account that a request's use goes to, and what of it is there already.
pub(super) struct Counted {
    account: Arc<Account>,
    minutes: Minutes,
    prices: Prices,
    noted: Used,
}

impl Counted {
    pub(super) fn new(account: Arc<Account>, minutes: Minutes, prices: Prices) -> Self {
        Self { account, minutes, prices, noted: Used::default() }
    }

    /// Takes note of what has come to be known.
    pub(super) fn note(&mut self, tap: &Tap) {
        if *tap.used() == self.noted {
            return;
        }
        let more = tap.used().since(&self.noted);
        self.noted = tap.used().clone();
        self.minutes.add(self.account.tenant(), more.limited());
        self.account.add(&more, self.prices.cost(&more));
    }
}
