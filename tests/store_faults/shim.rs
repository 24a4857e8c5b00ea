//! What makes system calls on the database's files fail, in the service and nowhere else:
//! a library that is preloaded into it, compiled here, and the file that tells it what fails.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path, process::Command, sync::Mutex};

use tempfile::TempDir;

/// What can be made to fail; the library numbers them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// EIO of `write`, `pwrite` and `ftruncate`: nothing is written.
    Write,
    /// EIO of `write` and `pwrite`, after half was written.
    TornWrite,
    /// EIO of `fsync` and `fdatasync`.
    Sync,
    /// EIO of `read` and `pread`.
    Read,
    /// EROFS of whatever changes a file that is open already.
    ReadOnly,
}

pub const FAILURES: [Failure; 5] =
    [Failure::Write, Failure::TornWrite, Failure::Sync, Failure::Read, Failure::ReadOnly];

/// Bytes of the control file: two numbers, and how often each failure came.
const CONTROL: u64 = 8 + 8 * FAILURES.len() as u64;

/// The library and its control.
pub struct Shim {
    folder: TempDir,
    control: File,
    kinds: Mutex<u32>,
}

impl Shim {
    /// Compiles it; everything works.
    pub fn build() -> Self {
        let folder = TempDir::new().expect("a folder");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store_faults/shim.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(folder.path().join("shim.so"))
            .arg(source)
            .arg("-ldl")
            .status();
        assert!(compiled.expect("cc is there").success(), "{source} does not compile");
        let path = folder.path().join("control");
        let control = File::options().create_new(true).read(true).write(true).open(path);
        let control = control.expect("made");
        control.set_len(CONTROL).expect("sized");
        Self { folder, control, kinds: Mutex::new(0) }
    }

    /// What the service is given, so that it has the library.
    pub fn variables(&self, database: &Path) -> [(&'static str, String); 3] {
        let text = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD", text(&self.folder.path().join("shim.so"))),
            ("STORE_FAULTS_CONTROL", text(&self.folder.path().join("control"))),
            ("STORE_FAULTS_FILE", text(database)),
        ]
    }

    /// Has every `one_in`-th of these calls fail from now on.
    pub fn begin(&self, failure: Failure, one_in: u32) {
        self.control.write_all_at(&one_in.to_ne_bytes(), 4).expect("written");
        self.change(|kinds| kinds | 1 << failure as u32);
    }

    /// These calls succeed again.
    pub fn end(&self, failure: Failure) {
        self.change(|kinds| kinds & !(1 << failure as u32));
    }

    fn change(&self, change: impl FnOnce(u32) -> u32) {
        let mut kinds = self.kinds.lock().expect("no panic");
        *kinds = change(*kinds);
        self.control.write_all_at(&kinds.to_ne_bytes(), 0).expect("written");
    }

    /// How many calls have failed so.
    pub fn hits(&self, failure: Failure) -> u64 {
        let mut number = [0; 8];
        self.control.read_exact_at(&mut number, 8 + 8 * failure as u64).expect("read");
        u64::from_ne_bytes(number)
    }
}
