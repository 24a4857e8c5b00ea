//! What the operator's permission rules may look like. They are matched by the CLI, which leaves
//! a rule out without a word that it does not understand: a rule that would hold nothing has to
//! be found here. Knows the form of rules, as the CLI checks it (2.1.110).

use crate::domain::ids::TenantId;
pub use crate::domain::operator_rule::RuleDecision;

/// Rules at most.
pub const MOST_RULES: usize = 500;

/// Characters of a rule.
pub const LONGEST_RULE: usize = 1000;

/// Bytes of all rules together: those of a process travel in one argument, of which Linux takes
/// 128 KiB, and every character may become two there.
pub const MOST_BYTES: usize = 32 << 10;

/// Tools whose rules are patterns of paths.
const FILE_TOOLS: [&str; 7] =
    ["Read", "Write", "Edit", "MultiEdit", "Glob", "NotebookRead", "NotebookEdit"];

/// Tools whose rules are beginnings of commands.
const SHELLS: [&str; 2] = ["Bash", "PowerShell"];

/// Why a rule is none.
pub fn check_rule(rule: &str) -> Result<(), String> {
    let length = rule.chars().count();
    if length > LONGEST_RULE {
        return Err(format!("must have at most {LONGEST_RULE} characters, has {length}"));
    }
    if rule.chars().any(char::is_control) {
        return Err("must not contain control characters".to_owned());
    }
    let form = || format!("must be Tool or Tool(specifier), is {rule:?}");
    let (tool, specifier) = match rule.split_once('(') {
        Some((tool, rest)) => (tool, Some(rest.strip_suffix(')').ok_or_else(form)?)),
        None => (rule, None),
    };
    let is_mcp = tool.starts_with("mcp__");
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let name = if is_mcp { tool.strip_suffix('*').unwrap_or(tool) } else { tool };
    let begins = is_mcp || tool.starts_with(|c: char| c.is_ascii_uppercase());
    if !begins || !name.chars().all(is_of_name) {
        return Err(form());
    }
    let Some(specifier) = specifier else { return Ok(()) };
    if is_mcp {
        return Err("must have no specifier: the CLI takes none for mcp__ tools".to_owned());
    }
    // The CLI splits lists of tools at commas and spaces outside of parentheses, and counts
    // no parentheses within others.
    if specifier.contains(['(', ')']) {
        return Err("must have no parentheses in its specifier".to_owned());
    }
    if specifier.trim().is_empty() {
        return Err("must not have an empty specifier: without one it is about every call".into());
    }
    check_prefix(tool, specifier)
}

/// `:*` stands for any ending of a command, and for nothing elsewhere.
fn check_prefix(tool: &str, specifier: &str) -> Result<(), String> {
    let Some((beginning, ending)) = specifier.split_once(":*") else { return Ok(()) };
    if SHELLS.contains(&tool) && (beginning.is_empty() || !ending.is_empty()) {
        return Err("must have :* at its end alone, behind the beginning of a command".to_owned());
    }
    if FILE_TOOLS.contains(&tool) {
        return Err("must not have :*, which is for commands: paths have * and **".to_owned());
    }
    Ok(())
}

/// Why a tenant is none; an empty name is that of all.
pub fn check_tenant(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Ok(());
    }
    TenantId::parse(name).map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_tool_with_or_without_a_specifier() {
        for rule in [
            "Bash",
            "Bash(git:*)",
            "Bash(npm run test, --all)",
            "Bash(git log *)",
            "Read(//etc/**)",
            "Edit(~/.ssh/**)",
            "WebFetch(domain:*.example.com)",
            "mcp__shop",
            "mcp__shop__*",
            "mcp__shop-2__buy_all",
            "Agent(fox)",
        ] {
            assert_eq!(check_rule(rule), Ok(()), "{rule}");
        }
    }

    #[test]
    fn what_the_cli_would_leave_out_or_misread_is_none() {
        for (rule, problem) in [
            ("", "must be Tool or Tool(specifier), is \"\""),
            (" Bash", "must be Tool"),
            ("bash", "must be Tool"),
            ("Bash,Write", "must be Tool"),
            ("Bash Write", "must be Tool"),
            ("Bash(git:*", "must be Tool"),
            ("Bash(git:*) ", "must be Tool"),
            ("(git)", "must be Tool"),
            ("*", "must be Tool"),
            ("--Bash", "must be Tool"),
            ("Bash()", "empty specifier"),
            ("Bash( )", "empty specifier"),
            ("Bash(echo (a) b)", "no parentheses"),
            ("Bash(a) Write(b)", "no parentheses"),
            ("Bash(:*)", "at its end alone"),
            ("Bash(git:* push)", "at its end alone"),
            ("Read(/etc:*)", "must not have :*"),
            ("mcp__shop(buy)", "takes none for mcp__"),
            ("Bash(a\nb)", "control characters"),
            ("Bash(a\0b)", "control characters"),
        ] {
            let told = check_rule(rule).expect_err(rule);
            assert!(told.contains(problem), "{rule:?}: {told}");
        }
        let of = |length: usize| format!("Bash({})", "é".repeat(length - "Bash()".len()));
        assert_eq!(check_rule(&of(LONGEST_RULE)), Ok(()));
        let told = check_rule(&of(LONGEST_RULE + 1)).expect_err("too long");
        assert_eq!(told, "must have at most 1000 characters, has 1001");
    }

    #[test]
    fn a_tenant_is_named_or_all_are_meant() {
        assert_eq!(check_tenant(""), Ok(()));
        assert_eq!(check_tenant("team-a"), Ok(()));
        assert!(check_tenant("team a\n").is_err());
    }
}
