//! Completion scripts and manual pages, made of the command line itself.

use clap::CommandFactory as _;

use super::args::Arguments;

const NAME: &str = "session-pool";

/// The completion script for a shell.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut script);
    script
}

/// The manual page of the program, or of one of its commands; `None` if there is no such.
pub fn manual(command: Option<&str>) -> Option<Vec<u8>> {
    let mut arguments = Arguments::command();
    arguments.build();
    let shown = match command {
        None => arguments,
        Some(name) => arguments.find_subcommand(name)?.clone(),
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(shown).render(&mut page).ok()?;
    Some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f2_completions_and_manual_know_the_commands() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh] {
            let script = String::from_utf8(completions(shell)).expect("UTF-8");
            assert!(script.contains("interrupt-all") && script.contains("--on-busy"), "{shell}");
        }
        let page = String::from_utf8(manual(None).expect("a page")).expect("UTF-8");
        assert!(page.starts_with(".ie") || page.contains(".TH session-pool"), "{page:.200}");
        let page = String::from_utf8(manual(Some("query")).expect("a page")).expect("UTF-8");
        assert!(page.contains("on\\-busy"), "{page}");
        assert!(manual(Some("nothing")).is_none());
    }
}
