//! The section `gateway` and `policy.egress`: what is refused, and in which words.

use super::*;

const KEY: (&str, &str) = ("gateway.api_key_file", "/key");

#[test]
fn a_credential_turns_the_gateway_on_and_a_word_turns_it_off() {
    assert!(!with_flags(&[]).expect("accepted").needs_gateway());
    assert!(with_flags(&[KEY]).expect("accepted").gateway.enabled);
    let off = with_flags(&[KEY, ("gateway.enabled", "false")]).expect("accepted");
    assert!(!off.gateway.enabled);
    let file = "[[gateway.tenant]]\ntenant = 'a'\nbearer_token_file = 'token'\n";
    let config = with_file(file).expect("accepted");
    assert!(config.gateway.enabled);
    let files: Vec<_> = config.gateway.credential_files().collect();
    assert!(files[0].is_absolute() && files[0].ends_with("token"), "{files:?}");
}

#[test]
fn values_that_are_not_good_are_refused() {
    for (key, value, words) in [
        ("gateway.enabled", "true", "needs a credential"),
        ("gateway.listen", "0.0.0.0:1", "must be a loopback address"),
        ("gateway.upstream", "api.anthropic.com", "must be http://HOST or https://HOST"),
        ("gateway.upstream", "https://sk-1@host", "must have no credentials in it"),
        ("gateway.upstream", "https://host?a", "must be http://HOST"),
        ("gateway.connect_timeout", "0s", "must be over 0 and at most 5m"),
        ("gateway.tenant", "[{tenant='a'}]", "must have either api_key_file or bearer_token_file"),
        ("gateway.tenant", "[{tenant='', api_key_file='k'}]", "tenant must be a name"),
        ("gateway.tenant", "[{tenant='a', api_key='sk-1'}]", "table 1: unknown field"),
        ("gateway.price", "[{model='', input=1.0, output=1.0}]", "model must have from 1 to 128"),
        ("gateway.price", "[{model='m', input=-1.0, output=1.0}]", "input must be from 0 to"),
        ("policy.tenant_max_tokens_per_minute", "5", "needs gateway.enabled"),
        ("policy.egress", "gateway", "needs gateway.enabled"),
        ("policy.egress", "closed", "must be open, gateway, or a list of hosts"),
        ("policy.egress", "['http://a']", "\"http://a\""),
        ("policy.egress", "[1]", "each item must be a string"),
    ] {
        let told = refusal(&[(key, value)]);
        assert!(told.starts_with(key) && told.contains(words), "{told}");
        assert!(!told.contains("sk-1"), "{told}");
    }
    let twice = "[{tenant='a', api_key_file='k'}, {tenant='a', api_key_file='l'}]";
    assert!(refusal(&[("gateway.tenant", twice)]).contains("has two tables"));
    assert!(refusal(&[KEY, ("gateway.bearer_token_file", "/t")]).contains("excludes gateway.api"));
    assert!(
        refusal(&[KEY, ("gateway.ca", "/ca"), ("gateway.upstream", "http://h")])
            .contains("begins with https://")
    );
}

#[test]
fn what_agents_could_read_of_a_credential_is_refused_beside_the_gateway() {
    for (key, value) in [
        ("cli.env.ANTHROPIC_API_KEY", "sk-1"),
        ("cli.env.ANTHROPIC_BASE_URL", "http://h"),
        ("cli.env_files", "['ANTHROPIC_AUTH_TOKEN=/t']"),
        ("cli.env_passthrough", "['CLAUDE_CODE_OAUTH_TOKEN']"),
        ("cli.env.CLAUDE_CODE_USE_BEDROCK", "1"),
    ] {
        let told = refusal(&[KEY, (key, value)]);
        assert!(told.contains("agents would read it"), "{told}");
        assert!(!told.contains("sk-1"), "{told}");
        with_flags(&[(key, value)]).expect("accepted without it");
    }
}

#[test]
fn what_is_printed_loads_to_the_same() {
    let file = "[gateway]\napi_key_file = '/key'\nhttp2 = true\n\
                [[gateway.tenant]]\ntenant = 'a'\napi_key_file = '/a'\n\
                [[gateway.price]]\nmodel = 'm'\ninput = 1.0\noutput = 2.5\ncache_read = 0.5\n\
                [policy]\negress = ['pypi.org', '*.example.com:443', '10.0.0.0/8']\n";
    let config = with_file(file).expect("accepted");
    assert_eq!(with_file(&print(&config)).expect("accepted"), config);
}
