//! The CLI's executable: where it is, and whether this machine can run it. A shell would run
//! whatever is no program of this machine's as a script, and a sandbox says what is wrong in
//! words of its own; so it is looked at before each start.

use std::{
    env, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, access},
    io::Errno,
};

/// What programs of Linux begin with.
const ELF: [u8; 4] = *b"\x7fELF";

/// Where the header says which machine a program is for.
const MACHINE: std::ops::Range<usize> = 18..20;

/// The path of a program, looked up on PATH if it is only a name.
pub fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 || program.is_absolute() {
        return std::path::absolute(program).ok().filter(|path| path.is_file());
    }
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Whether a file is a program, and no script.
pub fn is_native(file: &Path) -> bool {
    header(file).is_ok_and(|header| header.starts_with(&ELF))
}

/// Fails as a start would if a program is not there or cannot be run on this machine.
/// Reads a few bytes: not for a runtime's own threads.
pub fn check(program: &Path) -> io::Result<()> {
    let Some(file) = find(program) else {
        // A folder is the only thing that is there and is not found.
        let there = program.is_dir();
        return Err(if there { Errno::ISDIR } else { Errno::NOENT }.into());
    };
    access(&file, Access::EXEC_OK)?;
    let header = match header(&file) {
        // It may be run and not read.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        header => header?,
    };
    let foreign = header.starts_with(&ELF)
        && machine().is_some_and(|own| {
            header.get(MACHINE).is_some_and(|machine| machine != own.to_le_bytes())
        });
    if foreign { Err(Errno::NOEXEC.into()) } else { Ok(()) }
}

/// The first bytes of a file, as many as there are.
fn header(file: &Path) -> io::Result<Vec<u8>> {
    let mut header = Vec::with_capacity(MACHINE.end);
    fs::File::open(file)?.take(MACHINE.end as u64).read_to_end(&mut header)?;
    Ok(header)
}

/// The number of this machine in headers (`e_machine` of the ELF specification).
fn machine() -> Option<u16> {
    match env::consts::ARCH {
        "x86_64" => Some(62),
        "aarch64" => Some(183),
        _ => None,
    }
}
