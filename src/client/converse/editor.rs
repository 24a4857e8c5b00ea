//! The person's own editor, for what is longer than a line.

use std::{env, fs, io, io::Write as _};

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::process::Command;

/// Opens the editor on a text and returns what was saved. Meanwhile nobody else may read the
/// terminal or write to it.
pub async fn edit(text: &str, suffix: &str) -> io::Result<String> {
    // Only this user can read it.
    let mut file = tempfile::Builder::new().prefix("session-pool-").suffix(suffix).tempfile()?;
    file.write_all(text.as_bytes())?;
    file.flush()?;
    let modes = tcgetattr(io::stdin());
    // What the variable holds is a command line, by custom: `code --wait`.
    let status = Command::new("sh")
        .args(["-c", &format!("{} \"$1\"", editor()), "sh"])
        .arg(file.path())
        .status()
        .await?;
    // An editor that was killed has left the terminal as it needed it.
    if let Ok(modes) = modes {
        tcsetattr(io::stdin(), OptionalActions::Now, &modes).ok();
    }
    if !status.success() {
        return Err(io::Error::other(format!("{} ended with {status}", editor())));
    }
    // By its name: an editor may have put another file in its place.
    fs::read_to_string(file.path())
}

fn editor() -> String {
    let mut named = ["VISUAL", "EDITOR"].into_iter().filter_map(|name| env::var(name).ok());
    named.find(|name| !name.trim().is_empty()).unwrap_or_else(|| "vi".to_owned())
}
