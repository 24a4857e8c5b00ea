//! The options of a session between the contract's message and the domain's type: the form that
//! each value has there ([`Wire`]), and all of them as a reader is shown them. That is made of the
//! one list of options, as is what `decode` takes over from callers, so that one in the list and
//! not in the contract, or the other way round, does not compile.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use crate::{
    domain::{
        hook::{DEFAULT_TIMEOUT, Hook},
        options::{Options, each_option},
        redacted::Redacted,
    },
    proto,
};

/// Stands in the place of what may be a secret.
const HIDDEN: &str = "<hidden>";

macro_rules! for_readers {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $when:ident $(($change:ident))?;)*) => {
        /// Options with [`HIDDEN`] in the place of all that may be a secret.
        fn concealed(options: Options) -> proto::SessionOptions {
            // What is reset is not there.
            let Options { $($name,)* reset: _ } = options;
            proto::SessionOptions {
                $($name: $name.shown(),)*
                // A choice of each caller, not of the session.
                include_partial_messages: None,
                // They say where a conversation came from, which is over.
                resume: None,
                fork_session: None,
                reset_options: Vec::new(),
            }
        }
    };
}

each_option!(for_readers);

/// Options for a reader. Of JSON that may hold credentials the keys are shown: the names of
/// servers, and what settings there are.
pub(super) fn shown(options: &Options) -> proto::SessionOptions {
    let outlined = |text: &Option<Redacted<String>>, levels| {
        text.as_ref().map(|Redacted(text)| outline(text, levels))
    };
    proto::SessionOptions {
        mcp_servers: outlined(&options.mcp_servers, 2),
        settings: outlined(&options.settings, 1),
        ..concealed(options.clone())
    }
}

/// The keys of JSON that may hold credentials, so many levels of them; values are hidden.
fn outline(text: &str, levels: usize) -> String {
    fn hide(value: &mut serde_json::Value, levels: usize) {
        match value {
            serde_json::Value::Object(members) if levels > 0 => {
                members.values_mut().for_each(|member| hide(member, levels - 1));
            }
            value => *value = HIDDEN.into(),
        }
    }
    let mut value = serde_json::from_str(text).unwrap_or_default();
    hide(&mut value, levels);
    value.to_string()
}

/// A value that has a form in the contract.
pub(super) trait Wire {
    /// That form.
    type Form;

    /// The value of a form.
    fn said(form: Self::Form) -> Self;

    /// Its form for a reader.
    fn shown(self) -> Self::Form;
}

/// Values that are their own form.
macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            type Form = Self;

            fn said(form: Self) -> Self {
                form
            }

            fn shown(self) -> Self {
                self
            }
        }
    )*};
}

plain!(String, u32, f64, Vec<String>);

impl Wire for Redacted<String> {
    type Form = String;

    fn said(form: String) -> Self {
        Self(form)
    }

    fn shown(self) -> String {
        HIDDEN.to_owned()
    }
}

impl<T: Wire> Wire for Option<T> {
    type Form = Option<T::Form>;

    fn said(form: Self::Form) -> Self {
        form.map(T::said)
    }

    fn shown(self) -> Self::Form {
        self.map(T::shown)
    }
}

impl Wire for Vec<Hook> {
    type Form = Vec<proto::Hook>;

    fn said(form: Self::Form) -> Self {
        let hook = |hook: proto::Hook| {
            let proto::Hook { event, matcher, timeout } = hook;
            let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
            Hook { event, matcher, timeout: timeout.unwrap_or(DEFAULT_TIMEOUT) }
        };
        form.into_iter().map(hook).collect()
    }

    fn shown(self) -> Self::Form {
        let hook = |hook: Hook| {
            let Hook { event, matcher, timeout } = hook;
            // Ten minutes at most: it has a form.
            proto::Hook { event, matcher, timeout: timeout.try_into().ok() }
        };
        self.into_iter().map(hook).collect()
    }
}

impl<K: Eq + Hash + Ord> Wire for Redacted<BTreeMap<K, String>> {
    type Form = HashMap<K, String>;

    fn said(form: Self::Form) -> Self {
        Self(form.into_iter().collect())
    }

    fn shown(self) -> Self::Form {
        self.0.into_keys().map(|name| (name, HIDDEN.to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::decode::taken_over;

    #[test]
    fn a_reader_sees_names_and_no_secret() {
        let said = proto::SessionOptions {
            model: Some("m".into()),
            max_budget_usd: Some(0.5),
            tools: vec![String::new()],
            mcp_servers: Some(r#"{"mcpServers":{"x":{"command":"secret"}}}"#.into()),
            settings: Some(r#"{"hooks":{"secret":1}}"#.into()),
            env: [("TZ".to_owned(), "secret".to_owned())].into(),
            ..proto::SessionOptions::default()
        };
        let (options, _) = taken_over(said.clone());
        assert_eq!(options.env.0["TZ"], "secret");
        let wanted = proto::SessionOptions {
            mcp_servers: Some(r#"{"mcpServers":{"x":"<hidden>"}}"#.into()),
            settings: Some(r#"{"hooks":"<hidden>"}"#.into()),
            env: [("TZ".to_owned(), HIDDEN.to_owned())].into(),
            ..said
        };
        assert_eq!(shown(&options), wanted);
        assert!(!format!("{:?}", concealed(options)).contains("secret"));
    }
}
