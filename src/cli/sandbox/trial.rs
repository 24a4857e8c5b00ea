//! Tries out at the start whether a sandbox works here, by running something harmless in
//! it with the arguments that a CLI gets.

use std::{
    fs, io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command as StdCommand, Output, Stdio},
    sync::Arc,
};

use super::{Opened, Sandbox, Scene, argv, keeper_command};
use crate::cli::{launch::Folders, spawner};

/// Ends well if it is alone with a few processes, does not see the file that it is given,
/// and can write where it is.
const LOOK_AROUND: &str = r#"[ $$ -lt 10 ] || { echo "processes of others are seen" >&2; exit 3; }
[ ! -e "$1" ] || { echo "the state folder is seen" >&2; exit 4; }
echo x >probe"#;

/// Why a sandbox does not work here.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(String);

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// The sandbox `process-tree`, if it works here. `keeper` is the program that has the
/// keeper as a subcommand. Waits for a process: not for a runtime's own threads.
pub fn process_tree(keeper: &Path) -> Result<Sandbox, Unfit> {
    let (_reader, announce) = spawner::announcement()?;
    let mut command = keeper_command(keeper, announce.as_raw_fd());
    command.arg("--").arg(keeper).arg("--version");
    spawner::hand_over(&mut command, announce);
    ended_well(command.stdin(Stdio::null()).output()?)?;
    Ok(Sandbox::ProcessTree(keeper.to_owned()))
}

/// The sandbox `bubblewrap`, if it works here. Makes a folder for the trial in the state
/// folder, which must exist. Waits for a process: not for a runtime's own threads.
pub fn bubblewrap(state_dir: &Path, secrets: &[PathBuf], program: &Path) -> Result<Sandbox, Unfit> {
    let scene = Scene::of_this_machine(state_dir, secrets, program);
    let place = state_dir.canonicalize()?.join(format!("trial-{}", std::process::id()));
    let folders = Folders {
        work: place.join("work"),
        config: place.join("config"),
        home: place.join("home"),
        extra: Vec::new(),
    };
    let hidden = place.join("hidden");
    for folder in folders.writable() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&hidden, "")?;
    let outcome = try_out(&scene, &folders, &hidden);
    fs::remove_dir_all(&place)?;
    outcome.map(|()| Sandbox::Bubblewrap(Arc::new(scene)))
}

fn try_out(scene: &Scene, folders: &Folders, hidden: &Path) -> Result<(), Unfit> {
    let (_reader, announce) = spawner::announcement()?;
    let mut command = StdCommand::new(argv::BWRAP);
    let opened = Opened::all(folders)?;
    command.args(argv::arguments(scene, &opened, &folders.work, announce.as_raw_fd()));
    command.args(["--", "sh", "-c", LOOK_AROUND, "sh"]).arg(hidden);
    spawner::hand_over(&mut command, announce);
    opened.into_iter().for_each(|folder| spawner::hand_over(&mut command, folder.fd));
    let output = command.stdin(Stdio::null()).output();
    ended_well(output.map_err(|error| Unfit(format!("{}: {error}", argv::BWRAP)))?)?;
    match folders.work.join("probe").is_file() {
        true => Ok(()),
        false => Err(Unfit("what is written in the work folder is not there".into())),
    }
}

fn ended_well(output: Output) -> Result<(), Unfit> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Unfit(format!("{}: {}", output.status, said.trim())))
}
