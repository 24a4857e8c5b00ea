//! Tries out at the start whether a sandbox works here, by running something harmless in
//! it with the arguments that a CLI gets.

use std::{
    fs, io,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::Path,
    process::{Command as StdCommand, Output, Stdio},
    sync::Arc,
};

use super::{
    MountPlan, Open, SUPERVISOR_NAME, Sandbox, View, announcement, argv, devices,
    mount_plan::BWRAP, supervisor_arguments,
};
use crate::{cli::command::Folders, os::descriptors::hand_over};

/// Tries to break out, and ends well if it cannot. Its arguments are a file that it must not
/// see, and the directories that it may write to, as `/proc/self/mountinfo` spells them. Each
/// line that it prints is one thing that it tried in vain. Only what every shell has built in:
/// an image may have nothing else. A file counts as writable if it can be opened for writing,
/// since for root permission bits say little.
const BREAK_OUT: &str = r#"
bad() { echo "$1" >&2; exit 3; }
hidden=$1; shift
seen=0; for process in /proc/[0-9]*; do seen=$((seen + 1)); done
[ $seen -lt 10 ] && [ $$ -lt 10 ] || bad "processes of others are seen"
echo "processes of others: not seen"
if { true </proc/1/environ; } 2>/dev/null; then bad "the first process, which ends with the service, can be changed"; fi
echo "first process, which ends with the service: not to be changed"
[ ! -e "$hidden" ] || bad "the state folder is seen"
echo "state folder, other sessions: not seen"
filtered=no
while read -r name value; do [ "$name $value" != "Seccomp: 2" ] || filtered=yes; done </proc/self/status
[ $filtered = yes ] || bad "system calls are not filtered"
echo "key rings of the kernel: kept from it by a filter of system calls"
settings=0
walk() {
  for file in "$1"/*; do
    if [ -d "$file" ] && [ ! -L "$file" ]; then walk "$file"; else look "$file"; fi
  done
}
look() {
  [ -f "$1" ] || return 0
  settings=$((settings + 1))
  if { true >>"$1"; } 2>/dev/null; then bad "$1 can be written"; fi
}
for place in /proc/*; do
  case "$place" in /proc/[0-9]*|/proc/self|/proc/thread-self) continue ;; esac
  if [ -d "$place" ] && [ ! -L "$place" ]; then walk "$place"; else look "$place"; fi
done
echo "$settings kernel settings: none can be written"
may_write() { for folder; do [ "$place" != "$folder" ] || return 0; done; return 1; }
while read -r _ _ _ _ place options rest; do
  rest=" $rest"; type=${rest#* - }; type=${type%% *}
  case "$options" in ro|ro,*) continue ;; esac
  case "$place" in
    /dev/null|/dev/zero|/dev/full|/dev/random|/dev/urandom|/dev/tty)
      [ ! -O "$place" ] || bad "the permissions of the machine's $place can be changed: run the service as another user than 0"
      continue ;;
    /proc|/dev/pts|/dev/console) continue ;;
  esac
  case "$type $rest" in
    tmpfs*size=*) continue ;;
    tmpfs*) bad "$place is in memory and has no size" ;;
  esac
  may_write "$@" || bad "$place can be written"
done </proc/self/mountinfo
echo "mounts: read-only or bounded, but for the session's directories"
echo x >probe
"#;

/// What the names of trials' folders begin with.
const TRIAL: &str = "trial-";

/// Why a sandbox does not work here.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(String);

impl From<io::Error> for Unsupported {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A sandbox that works here, and what was tried against it.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// What was tried, one thing each, and how it ended.
    pub attempts: Vec<String>,
}

/// The sandbox `process-tree`, if it works here. `supervisor` is the program that has the
/// supervisor as a subcommand. Waits for a process: not for a runtime's own threads.
pub fn process_tree(supervisor: &Path) -> Result<Tried, Unsupported> {
    let (_reader, announce) = announcement()?;
    let mut command = StdCommand::new(supervisor);
    command.arg0(SUPERVISOR_NAME).args(supervisor_arguments(announce.as_raw_fd()));
    command.arg("--").arg(supervisor).arg("--version");
    hand_over(&mut command, announce);
    ended_well(command.stdin(Stdio::null()).output()?)?;
    let attempts =
        vec!["supervisor: starts a process and ends with it; no wall was tried".to_owned()];
    Ok(Tried { sandbox: Sandbox::ProcessTree(supervisor.to_owned()), attempts })
}

/// The sandbox `bubblewrap`, if it works here. Makes a folder for the trial in the state
/// folder, which must exist. Waits for a process: not for a runtime's own threads.
pub fn bubblewrap(view: &View<'_>) -> Result<Tried, Unsupported> {
    let plan = MountPlan::of_this_machine(view);
    let trial =
        tempfile::Builder::new().prefix(TRIAL).tempdir_in(view.state_dir.canonicalize()?)?;
    let place = trial.path();
    let folders = Folders {
        work: place.join("work"),
        config: place.join("config"),
        home: place.join("home"),
        extra: Vec::new(),
    };
    let hidden = place.join("hidden");
    for folder in &folders.writable() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&hidden, "")?;
    let outcome = try_both(plan, &folders, &hidden);
    trial.close()?;
    outcome
}

/// Without user namespaces of the sessions' own if that can be had: with one, an agent has
/// capabilities again, if only over what it makes itself.
fn try_both(plan: MountPlan, folders: &Folders, hidden: &Path) -> Result<Tried, Unsupported> {
    let first = try_out(&plan, folders, hidden);
    let (plan, mut attempts) = match first {
        Ok(mut attempts) => {
            attempts.push("user namespaces in it: not to be had".to_owned());
            (plan, attempts)
        }
        Err(why) => {
            let plan = MountPlan { nesting: true, ..plan };
            let mut attempts = try_out(&plan, folders, hidden)?;
            attempts.push(format!("user namespaces in it: cannot be kept from it here: {why}"));
            (plan, attempts)
        }
    };
    attempts.push(format!("processes and threads of a session: {}", who_bounds_tasks(&plan)));
    Ok(Tried { sandbox: Sandbox::Bubblewrap(Arc::new(plan)), attempts })
}

fn who_bounds_tasks(plan: &MountPlan) -> String {
    match (plan.max_tasks, plan.task_wall()) {
        (0, _) => "not bounded".to_owned(),
        (most, Some(wall)) => format!(
            "ended by the service over {most}; the kernel refuses more than {wall}, but not to user 0"
        ),
        (most, None) => {
            format!("ended by the service over {most}; the kernel bounds them only together")
        }
    }
}

/// Removes what trials left that were cut short. Only by whoever has the state folder.
pub fn sweep_trials(state_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(state_dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TRIAL) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn try_out(plan: &MountPlan, folders: &Folders, hidden: &Path) -> Result<Vec<String>, Unsupported> {
    let (_reader, announce) = announcement()?;
    let mut command = StdCommand::new(&plan.bwrap);
    let open = Open::for_bubblewrap(plan, folders, None)?;
    command.args(argv::arguments(plan, &open, folders, announce.as_raw_fd()));
    command.args(["--", "sh", "-c", BREAK_OUT, "sh"]).arg(hidden);
    command.args(folders.writable().iter().map(|folder| as_mountinfo_spells(folder)));
    hand_over(&mut command, announce);
    open.into_fds().for_each(|fd| hand_over(&mut command, fd));
    command.stdin(Stdio::null());
    devices::protect_in(&mut command);
    let output = command.output();
    let output = output.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "; as user 0 the service needs CAP_SYS_ADMIN, to protect the machine's devices: \
                 run it as another user"
            }
            _ => "",
        };
        Unsupported(format!("{BWRAP}: {error}{hint}"))
    })?;
    let attempts = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    ended_well(output)?;
    match folders.work.join("probe").is_file() {
        true => Ok(attempts),
        false => Err(Unsupported("what is written in the work folder is not there".into())),
    }
}

/// The kernel writes white space and backslashes of a path in octal.
fn as_mountinfo_spells(path: &Path) -> String {
    let octal = |c: char| match c {
        ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", u32::from(c)),
        _ => c.to_string(),
    };
    path.to_string_lossy().chars().map(octal).collect()
}

fn ended_well(output: Output) -> Result<(), Unsupported> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Unsupported(format!("{}: {}", output.status, said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_spelled_as_the_kernel_does() {
        assert_eq!(as_mountinfo_spells(Path::new("/a b\\c")), "/a\\040b\\134c");
    }

    #[test]
    fn b7_what_a_trial_left_is_swept() {
        let state = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(state.path().join("trial-77/work")).expect("made");
        fs::create_dir_all(state.path().join("tenants")).expect("made");
        sweep_trials(state.path()).expect("swept");
        let left: Vec<_> = fs::read_dir(state.path()).expect("read").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
