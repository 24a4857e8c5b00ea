//! The machine's devices that a sandbox shows, protected from being changed. Bubblewrap binds
//! `/dev/null` and its like from the machine, writable, and without capabilities user 0 still
//! owns them: a session of a service that runs as root could set their permissions, for
//! every other session and for the machine.

use std::{io, path::Path};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount},
    process::geteuid,
    thread::{UnshareFlags, unshare_unsafe},
};

/// What bubblewrap's `--dev` takes from the machine.
const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// Makes the devices read-only for this thread and for what it starts from here on, in a
/// mount namespace of its own: they can be opened and written to, but not changed. Mounts that
/// the machine gets later appear in it, too.
///
/// Only where that is needed, as user 0, and possible, with `CAP_SYS_ADMIN`. Whether a
/// session can still change them is tried at the start.
pub fn protect() -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    own_mounts()?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    for device in DEVICES.into_iter().filter(|device| Path::new(device).exists()) {
        mount_bind(device, device)?;
        mount_remount(device, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID, c"")?;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "unsharing descriptors would be unsafe, which is not asked for")]
fn own_mounts() -> io::Result<()> {
    // SAFETY: the thread gets a root and a working directory of its own, no other memory or
    // descriptors.
    unsafe { unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }?;
    Ok(())
}
