//! Options that were taken before, held to the policy of today: those of a session that
//! is taken up again may come from before a restart with another one.

use super::{Policy, check::Check, options::options_of};
use crate::{cli::options::Options, failure::Cause, proto};

/// Whether the policy still allows these options; the error names the fields. Looks at
/// the file system: not for a runtime's own threads.
pub fn still_allowed(options: &Options, policy: &Policy) -> Result<(), Cause> {
    let mut check = Check::default();
    options_of(&mut check, said(options.clone()), policy, "options");
    check.refused().map_or(Ok(()), |(field, allowed)| Err(Cause::NotAllowed { field, allowed }))
}

/// The options as a caller would say them.
fn said(options: Options) -> proto::SessionOptions {
    let Options {
        model,
        fallback_model,
        system_prompt,
        append_system_prompt,
        permission_mode,
        allowed_tools,
        disallowed_tools,
        tools,
        max_turns,
        max_budget_usd,
        max_thinking_tokens,
        effort,
        cwd,
        add_dirs,
        mcp_servers,
        agents,
        json_schema,
        settings,
        setting_sources,
        env,
        betas,
        // Nobody keeps it.
        reset: _,
    } = options;
    proto::SessionOptions {
        model,
        fallback_model,
        system_prompt,
        append_system_prompt,
        permission_mode,
        allowed_tools,
        disallowed_tools,
        tools,
        max_turns,
        max_budget_usd,
        max_thinking_tokens,
        effort,
        cwd,
        add_dirs,
        mcp_servers: mcp_servers.map(|servers| servers.0),
        agents,
        json_schema,
        settings: settings.map(|settings| settings.0),
        setting_sources,
        include_partial_messages: None,
        env: env.0.into_iter().collect(),
        betas,
        resume: None,
        fork_session: None,
        reset_options: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::Hidden;

    #[test]
    fn a_policy_that_was_closed_since_is_obeyed() {
        let options = Options {
            permission_mode: Some("plan".into()),
            settings: Some(Hidden("{\"secret\":1}".into())),
            ..Options::default()
        };
        let open =
            Policy { permission_modes: vec!["plan".into()], settings: true, ..Policy::default() };
        assert_eq!(still_allowed(&options, &open), Ok(()));
        assert_eq!(still_allowed(&Options::default(), &Policy::default()), Ok(()));
        let refused = still_allowed(&options, &Policy::default()).expect_err("closed");
        let Cause::NotAllowed { field, allowed } = refused else { panic!("{refused:?}") };
        assert_eq!(field, "options.permission_mode,options.settings");
        assert!(!allowed.contains("secret"), "{allowed}");
    }
}
