//! Where answers go: what was asked for to stdout, remarks to stderr.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
};

/// Writes to stdout, at once.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes to stderr. A remark that nobody can read stops nothing.
pub fn remark(text: &str) {
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

/// Whether people read stdout on a screen.
pub fn is_screen() -> bool {
    io::stdout().is_terminal()
}

/// Whether text on stdout may have colours, and whether remarks on stderr may: not where
/// NO_COLOR says so, and not on a terminal without them.
pub fn has_colours() -> (bool, bool) {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    let wanted = !is_set("NO_COLOR") && !dumb;
    (wanted && io::stdout().is_terminal(), wanted && io::stderr().is_terminal())
}

/// Columns of the screen, as they are now: of the terminal, or as far as the shell tells.
pub fn screen_width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let of_terminal = size.map(|size| usize::from(size.ws_col));
    let told = || env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let is_width = |columns: &usize| (20..=1000).contains(columns);
    of_terminal.filter(is_width).or_else(|| told().filter(is_width)).unwrap_or(80)
}
