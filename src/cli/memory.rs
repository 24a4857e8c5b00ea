//! How much memory process trees hold. Knows nothing of what the processes are.

use crate::procfs::Look;

/// Resident bytes of the given processes and all their descendants. Pages that they
/// share are counted for each. Reads `/proc`: not for a runtime's own threads.
pub fn resident_bytes(roots: &[u32]) -> u64 {
    let look = Look::take().unwrap_or_default();
    roots.iter().map(|root| look.resident_bytes(*root)).sum()
}
