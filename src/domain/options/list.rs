//! All options, each once: its meaning, its name in the contract, its type and when a process
//! can be given it. Whatever has to name every option is made of this list.

/// Hands all options, in the contract's order, to the macro `$then`, which takes
///
/// ```text
/// $($(#[$doc:meta])* $name:ident: $type:ty = $when:ident $(($change:ident))?;)*
/// ```
///
/// `$when` says when a process can be given an option:
///
/// - `Live(CHANGE)`: at any time, by a `LiveChange`.
/// - `Told`: before its first prompt, by what it is told then.
/// - `Start`: when it is started, and never again. Spares differ by these.
///
/// Its type says whether it is said: `None` and an empty list mean "not said". One that may
/// hold credentials is `Redacted`.
macro_rules! each_option {
    ($then:ident) => {
        $then! {
            /// Model alias or full name.
            model: Option<String> = Live(Model);
            /// Model to use when the first is overloaded.
            fallback_model: Option<String> = Start;
            /// Replaces the CLI's system prompt.
            system_prompt: Option<String> = Told;
            /// Added to the CLI's system prompt.
            append_system_prompt: Option<String> = Told;
            /// Permission mode, as the CLI calls it.
            permission_mode: Option<String> = Live(PermissionMode);
            /// Rules of tools that run without asking.
            allowed_tools: Vec<String> = Start;
            /// Rules of tools that are refused.
            disallowed_tools: Vec<String> = Start;
            /// The built-in tools that exist; one empty string means none.
            tools: Vec<String> = Start;
            /// Rounds with the model after which a turn ends.
            max_turns: Option<u32> = Start;
            /// Cost in US dollars at which turns end.
            max_budget_usd: Option<f64> = Start;
            /// Tokens for thinking.
            max_thinking_tokens: Option<u32> = Live(MaxThinkingTokens);
            /// Effort level.
            effort: Option<String> = Live(Effort);
            /// Working folder, as a real path. `None`: the session's own.
            cwd: Option<String> = Start;
            /// Further folders that tools may reach, as real paths.
            add_dirs: Vec<String> = Start;
            /// MCP servers, as the JSON object that `--mcp-config` takes.
            mcp_servers: Option<Redacted<String>> = Told;
            /// Subagents by name, as a JSON object.
            agents: Option<String> = Told;
            /// JSON schema of the structured output, as a JSON object.
            json_schema: Option<String> = Told;
            /// Settings, as a JSON object.
            settings: Option<Redacted<String>> = Start;
            /// Settings files to load: `user`, `project`, `local`.
            setting_sources: Vec<String> = Start;
            /// Environment variables beside the operator's, by name.
            env: Redacted<BTreeMap<String, String>> = Told;
            /// Beta headers.
            betas: Vec<String> = Start;
            /// Names of tool servers that callers of the tenant offer.
            tool_servers: Vec<String> = Told;
            /// Points of its work at which it asks.
            hooks: Vec<Hook> = Told;
        }
    };
}

pub(crate) use each_option;
