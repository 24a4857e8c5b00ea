//! Whose spares are kept: those of the tenants whose sessions began lately. Pure.

use std::collections::{BTreeMap, VecDeque};

use crate::domain::ids::TenantId;

/// How many of the last beginnings count.
const MEMORY: usize = 32;

/// Whose sessions began lately, the last one at the end.
#[derive(Debug, Default)]
pub struct Demand(VecDeque<TenantId>);

impl Demand {
    /// Takes note of a session that began.
    pub fn note(&mut self, tenant: &TenantId) {
        if self.0.len() == MEMORY {
            self.0.pop_front();
        }
        self.0.push_back(tenant.clone());
    }

    /// Deals out so many spares: to each tenant its share of the beginnings, and what is
    /// left over to those who are owed most, the latest first. `first` has them all for as
    /// long as nobody has begun.
    pub fn allot(&self, count: usize, first: Option<&TenantId>) -> BTreeMap<TenantId, usize> {
        let total = self.0.len();
        if total == 0 {
            return first.map(|tenant| (tenant.clone(), count)).into_iter().collect();
        }
        let mut uses: BTreeMap<&TenantId, (usize, usize)> = BTreeMap::new();
        for (at, tenant) in self.0.iter().enumerate() {
            let (used, latest) = uses.entry(tenant).or_default();
            *used += 1;
            *latest = at;
        }
        let mut shares: Vec<_> = uses
            .into_iter()
            .map(|(tenant, (used, latest))| {
                let owed = used * count;
                (owed % total, latest, tenant, owed / total)
            })
            .collect();
        shares.sort_by_key(|(owed, latest, ..)| std::cmp::Reverse((*owed, *latest)));
        let mut left = count - shares.iter().map(|(.., share)| share).sum::<usize>();
        let mut dealt = BTreeMap::new();
        for (owed, _, tenant, share) in shares {
            let more = usize::from(left > 0 && owed > 0);
            left -= more;
            if share + more > 0 {
                dealt.insert(tenant.clone(), share + more);
            }
        }
        dealt
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a name")
    }

    fn demand(names: &str) -> Demand {
        let mut demand = Demand::default();
        names.chars().for_each(|name| demand.note(&tenant(&name.to_string())));
        demand
    }

    fn shares(names: &str, count: usize) -> Vec<(String, usize)> {
        let shares = demand(names).allot(count, None);
        shares.into_iter().map(|(tenant, share)| (tenant.to_string(), share)).collect()
    }

    #[test]
    fn tenants_share_by_what_they_began() {
        let owned = |list: &[(&str, usize)]| -> Vec<(String, usize)> {
            list.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect()
        };
        assert_eq!(shares("aaab", 4), owned(&[("a", 3), ("b", 1)]));
        assert_eq!(shares("ab", 1), owned(&[("b", 1)]), "the latest");
        assert_eq!(shares("ba", 1), owned(&[("a", 1)]));
        assert_eq!(shares("abc", 2), owned(&[("b", 1), ("c", 1)]));
        assert_eq!(shares("", 2), []);
        let first = tenant("x");
        assert_eq!(Demand::default().allot(2, Some(&first)), [(first.clone(), 2)].into());
        assert_eq!(demand("a").allot(2, Some(&first)), [(tenant("a"), 2)].into());
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let names = format!("b{}", "a".repeat(MEMORY));
        assert_eq!(shares(&names, 8), [("a".to_owned(), 8)]);
    }

    proptest! {
        #[test]
        fn all_are_dealt_out_and_nobody_gets_one_more_than_the_share(
            names in "[a-e]{1,40}",
            count in 0_usize..20,
        ) {
            let demand = demand(&names);
            let dealt = demand.allot(count, None);
            prop_assert_eq!(dealt.values().sum::<usize>(), count);
            for (tenant, share) in dealt {
                let used = demand.0.iter().filter(|other| **other == tenant).count();
                prop_assert!(share <= used * count / demand.0.len() + 1);
            }
        }
    }
}
