//! The machine's devices that a sandbox shows, protected from being changed. Bubblewrap binds
//! `/dev/null` and its like from the machine, writable, and without capabilities user 0 still
//! owns them: a session of a service that runs as root could set their permissions, for
//! every other session and for the machine.

use std::io;

use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount},
    process::geteuid,
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::os::launch::Prepare;

/// What bubblewrap's `--dev` takes from the machine.
const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// Has a command see the devices read-only, in a mount namespace of its own: they can be opened
/// and written to, but not changed. The namespace is made for each command, so that it has what
/// the machine has mounted by then.
///
/// Only where that is needed, as user 0, which takes `CAP_SYS_ADMIN`: without it the command does
/// not start.
#[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
pub fn protect_in(command: &mut impl Prepare) {
    if !geteuid().is_root() {
        return;
    }
    // SAFETY: only system calls that are safe between fork and exec, with short paths, for
    // which nothing is allocated.
    unsafe {
        command.prepare(protect);
    }
}

#[expect(unsafe_code, reason = "unsharing descriptors would be unsafe, which is not asked for")]
fn protect() -> io::Result<()> {
    // SAFETY: the process gets mounts of its own, no other memory or descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    for device in DEVICES {
        match mount_bind(device, device) {
            Err(Errno::NOENT) => continue,
            bound => bound?,
        }
        mount_remount(device, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID, c"")?;
    }
    Ok(())
}
