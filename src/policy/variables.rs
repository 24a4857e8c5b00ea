//! Which environment variables a caller may set. Some are nobody's to give away: those
//! that the service relies on, and those that change what is executed.

/// Variables by which a CLI finds a way to a model. With any of them it goes past the API gateway:
/// another address, another credential, or another kind of API.
pub const WAYS_TO_A_MODEL: [&str; 7] = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_VERTEX",
];

/// Names that no caller may set.
const RESERVED: [&str; 34] = [
    "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_SHELL",
    "CLAUDE_CODE_SHELL_PREFIX",
    "CLAUDE_CONFIG_DIR",
    "CLAUDE_ENV_FILE",
    "COMSPEC",
    "DISABLE_AUTOUPDATER",
    "EDITOR",
    "ENV",
    "GCONV_PATH",
    "GIT_EDITOR",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PAGER",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "HOME",
    "IFS",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PAGER",
    "PATH",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PROMPT_COMMAND",
    "PS4",
    "PWD",
    "RUBYLIB",
    "RUBYOPT",
    "SHELL",
    "TMPDIR",
    "VISUAL",
];

/// Beginnings of names that no caller may set.
const RESERVED_FAMILIES: [&str; 9] = [
    "BASH",
    "BUN_",
    "CLAUDE_CODE_TMP",
    "DYLD_",
    "GIT_CONFIG",
    "LD_",
    "PYTHON",
    "SESSION_POOL",
    "XDG_",
];

/// Whether no caller may set a variable, whatever the operator says. Upper and lower case
/// are one here: nobody needs a variable that only looks like one of these.
pub fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    RESERVED.contains(&name.as_str())
        || RESERVED_FAMILIES.iter().any(|family| name.starts_with(family))
}

/// Whether a text can be the name of an environment variable.
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Checks an item of the operator's list. The error says what is wrong with it.
pub fn check_pattern(pattern: &str) -> Result<(), &'static str> {
    let stem = pattern.strip_suffix('*').unwrap_or(pattern);
    if !is_name(stem) {
        // A lone `*` would be a list of what is forbidden, which is never complete.
        return Err("each item must be the name of a variable, or the beginning of one and *");
    }
    if is_reserved(stem) {
        return Err("callers may not set this: the service relies on it, or it changes what is \
                    executed");
    }
    Ok(())
}

/// Whether the operator's list and the reserved names let a caller set this variable.
pub fn may_set(patterns: &[String], name: &str) -> bool {
    let fits = |pattern: &String| match pattern.strip_suffix('*') {
        Some(stem) => name.starts_with(stem),
        None => name == pattern,
    };
    is_name(name) && !is_reserved(name) && patterns.iter().any(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_allows_names_and_beginnings() {
        let patterns = ["TZ".to_owned(), "APP_*".to_owned(), "B*".to_owned()];
        for name in ["TZ", "APP_", "APP_TOKEN", "BUILD"] {
            assert!(may_set(&patterns, name), "{name}");
        }
        for name in ["TZ2", "tz", "APP", "A", "", "APP_X=Y", "APP_-", "APP_\0", "APP_É"] {
            assert!(!may_set(&patterns, name), "{name:?}");
        }
        // What is reserved stays so below a wildcard.
        for name in ["BASH_ENV", "BASH_FUNC_ls", "BUN_OPTIONS"] {
            assert!(!may_set(&patterns, name), "{name}");
        }
        assert!(!may_set(&[], "TZ"));
    }

    #[test]
    fn what_the_service_relies_on_cannot_be_given_away() {
        for pattern in [
            "PATH",
            "Path",
            "HOME",
            "LD_PRELOAD",
            "LD_*",
            "NODE_OPTIONS",
            "SESSION_POOL_STATE",
            "CLAUDE_CONFIG_DIR",
            "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS",
            "BASH_ENV",
            "*",
            "",
            "A-B",
            "A*B",
            "**",
            "1A",
            "GIT_CONFIG_COUNT",
            "PYTHONSTARTUP",
        ] {
            assert!(check_pattern(pattern).is_err(), "{pattern}");
        }
        for pattern in ["ANTHROPIC_API_KEY", "APP_*", "_X", "LC_ALL", "PA*"] {
            assert!(check_pattern(pattern).is_ok(), "{pattern}");
        }
    }
}
