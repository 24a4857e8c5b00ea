use std::path::PathBuf;

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use tonic_types::StatusExt as _;

use super::{report::TRAILERS_LIMIT, *};
use crate::domain::{
    failure::Remedy,
    ids::{ClientId, SessionId, TurnId},
};

/// The trailers of an error as they travel, by the count of HTTP/2 (RFC 9113, 6.5.2).
fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).expect("a status can be sent");
    headers
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

#[track_caller]
fn is_whole(status: &Status) {
    let size = size(&trailers(status));
    assert!(size <= TRAILERS_LIMIT && TRAILERS_LIMIT < 8192, "{size} bytes: {status:?}");
    let details = status.get_error_details();
    let info = details.error_info().expect("a reason");
    assert!(!info.reason.is_empty() && info.domain == DOMAIN);
}

#[test]
fn an_error_says_reason_and_whom_it_concerns() {
    let session = SessionId::parse("s").expect("a name");
    let failure = Failure::from(Cause::CliExited {
        exit: Exit::Signal(9),
        stderr_tail: format!("first{}last", "é".repeat(2000)),
        tool_use_seen: true,
    })
    .concerning(Some(&session), None);
    let status = of_failure(&failure);
    assert_eq!(status.code(), Code::Unavailable);
    let details = status.get_error_details();
    let info = details.error_info().expect("always there");
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("CLI_EXITED", DOMAIN));
    assert_eq!(info.metadata["session_id"], "s");
    assert_eq!(info.metadata["signal"], "9");
    assert_eq!(info.metadata["tool_use_seen"], "true");
    let tail = &info.metadata["stderr_tail"];
    assert!(tail.ends_with("last") && !tail.contains("first"), "{tail}");
}

#[test]
fn every_violation_is_listed_at_once() {
    let violation = |field: &str| Violation { field: field.into(), description: "is bad".into() };
    let status = of_rejection(&Rejection::Invalid(vec![violation("a"), violation("b")]));
    let details = status.get_error_details();
    assert_eq!(details.bad_request().expect("there").field_violations.len(), 2);
    assert_eq!(status.message(), "a is bad; b is bad");
}

#[test]
fn c1_what_is_allowed_is_told_once_for_all_fields_that_have_it_in_common() {
    let allowed = format!("folders below {}", "/a/long/root".repeat(20));
    let violation = |index: usize| Violation {
        field: format!("options.add_dirs[{index}]"),
        description: allowed.clone(),
    };
    let status = of_rejection(&Rejection::Denied((0..64).map(violation).collect()));
    is_whole(&status);
    assert_eq!(status.message().matches(&allowed).count(), 1);
    assert!(status.message().contains("add_dirs[2] and 61 more are not allowed"));
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("there").metadata["limit"], allowed);
    let told = &details.bad_request().expect("there").field_violations;
    assert_eq!(told[0].description, allowed);
    assert_eq!(told[1].description, "allowed: as for options.add_dirs[0]");
    let counted = told.last().expect("one").description.clone();
    assert!(told.len() == 64 || counted == format!("and {} more", 65 - told.len()), "{counted}");
}

#[test]
fn c1_an_error_of_the_library_that_repeats_a_request_is_cut() {
    for value in ["x", "é", "%", " "] {
        let status = Status::unimplemented(value.repeat(12_000));
        let mut headers = trailers(&status);
        bound_trailers(&mut headers);
        assert!(size(&headers) <= TRAILERS_LIMIT);
        let read = Status::from_header_map(&headers).expect("a status");
        assert_eq!(read.code(), Code::Unimplemented);
        assert!(read.message().starts_with(&value.repeat(100)), "{}", read.message());
        assert!(!read.message().contains('\u{fffd}') && !read.message().ends_with("%2"));
    }
    let mut small = trailers(&Status::not_found("x"));
    small.insert("other", HeaderValue::from_static("y"));
    let before = small.clone();
    bound_trailers(&mut small);
    assert_eq!(small, before, "what is small stays as it is");
}

/// Text of any script, with what percent-encoding and base64 make long, up to 20 kB.
fn text() -> impl Strategy<Value = String> {
    (prop_oneof!["[ -~]{1,40}", "[%<>{} ]{1,40}", "[äßé漢字🙂\u{0}-\u{1f}]{1,40}"], 0..500_usize)
        .prop_map(|(unit, times)| unit.repeat(times))
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(text(), 0..70)
}

fn exit() -> impl Strategy<Value = Exit> {
    prop_oneof![any::<i32>().prop_map(Exit::Code), Just(Exit::Signal(9)), Just(Exit::Unknown)]
}

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        (text(), exit(), text()).prop_map(|(detail, exit, stderr_tail)| Cause::ConnectFailed {
            detail,
            exit: Some(exit),
            stderr_tail
        }),
        (exit(), text()).prop_map(|(exit, stderr_tail)| Cause::CliExited {
            exit,
            stderr_tail,
            tool_use_seen: true
        }),
        (texts(), text()).prop_map(|(options, detail)| Cause::OptionsMismatch {
            options,
            remedy: Remedy::Query,
            detail: Some(detail)
        }),
        (text(), text()).prop_map(|(field, allowed)| Cause::NotAllowed { field, allowed }),
        text().prop_map(|limit| Cause::TenantQuota {
            key: "policy.tenant_max_sessions",
            limit,
            retry: Duration::from_secs(1)
        }),
        text().prop_map(|resume| Cause::ConversationNotFound { resume }),
        text().prop_map(|prompt_id| Cause::PromptNotFound { prompt_id }),
        text().prop_map(|task_id| Cause::TaskNotFound { task_id }),
        (text(), text()).prop_map(|(field, problem)| Cause::InvalidAnswer { field, problem }),
        (text(), text())
            .prop_map(|(path, detail)| Cause::CliNotFound { path: PathBuf::from(path), detail }),
        text().prop_map(|detail| Cause::Protocol { detail }),
        text().prop_map(|detail| Cause::Internal { detail }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn c1_no_failure_is_too_large_for_a_client(
        cause in cause(),
        session in "[A-Za-z0-9._:-]{1,128}",
        turn in "[A-Za-z0-9._:-]{1,128}",
    ) {
        let session = SessionId::parse(&session).expect("a name");
        let turn = TurnId::parse(&turn).expect("a name");
        let failure = Failure::from(cause)
            .concerning(Some(&session), Some(&turn))
            .on_client(ClientId::fresh());
        let status = of_failure(&failure);
        is_whole(&status);
        let details = status.get_error_details();
        let metadata = &details.error_info().expect("there").metadata;
        prop_assert_eq!(metadata["session_id"].as_str(), session.as_str());
        prop_assert_eq!(metadata["turn_id"].as_str(), turn.as_str());
    }

    #[test]
    fn c1_no_rejection_is_too_large_for_a_client(
        fields in texts(),
        descriptions in texts(),
        denied: bool,
    ) {
        let violations = fields.into_iter().zip(descriptions.into_iter().cycle());
        let violations: Vec<_> =
            violations.map(|(field, description)| Violation { field, description }).collect();
        prop_assume!(!violations.is_empty());
        let count = violations.len();
        let rejection =
            if denied { Rejection::Denied(violations) } else { Rejection::Invalid(violations) };
        let status = of_rejection(&rejection);
        is_whole(&status);
        let details = status.get_error_details();
        let told = &details.bad_request().expect("there").field_violations;
        let more = told.last().and_then(|last| {
            last.description.strip_prefix("and ")?.strip_suffix(" more")?.parse::<usize>().ok()
        });
        prop_assert!(told.len() == count || more == Some(count + 1 - told.len()));
    }
}

/// The reasons of the contract, each with its code and whether waiting helps, as its comment says.
fn reasons_of_the_contract() -> Vec<(String, String, bool)> {
    let contract = include_str!("../../../proto/sessionpool/v1/session_pool.proto");
    let (_, reasons) = contract.split_once("enum ErrorReason {").expect("the reasons");
    let (reasons, _) = reasons.split_once("\n}").expect("their end");
    let (mut found, mut comment) = (Vec::new(), String::new());
    for line in reasons.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("// ") {
            comment += text;
        } else if let Some(name) = line.strip_prefix("ERROR_REASON_") {
            let (name, _) = name.split_once(" = ").expect("a number");
            let said = std::mem::take(&mut comment);
            if let Some((code, _)) = said.split_once([':', ',']) {
                found.push((
                    name.to_owned(),
                    code.to_owned(),
                    said[code.len()..].starts_with(", with RetryInfo"),
                ));
            }
        }
    }
    found.retain(|(name, ..)| name != "UNIMPLEMENTED");
    found.sort();
    found
}

#[test]
fn the_page_of_errors_has_each_reason_with_its_code_and_whether_waiting_helps() {
    let page = include_str!("../../../docs/errors.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let mut told: Vec<_> = rows
        .map(|(reason, rest)| {
            let cells: Vec<&str> = rest.split(" | ").map(str::trim).collect();
            (reason.to_owned(), cells[0].to_owned(), cells[1].trim_matches('|').trim() == "yes")
        })
        .collect();
    told.sort();
    assert_eq!(told, reasons_of_the_contract());
}

#[test]
fn waiting_helps_where_the_contract_says_so() {
    let contract = reasons_of_the_contract();
    for cause in [
        Cause::SessionBusy,
        Cause::ShuttingDown,
        Cause::SessionNotFound,
        Cause::TurnInterrupted,
        Cause::moved("a"),
        Cause::ConnectFailed { detail: String::new(), exit: None, stderr_tail: String::new() },
        Cause::StoreUnavailable { detail: String::new() },
        Cause::PoolDisabled,
        Cause::Internal { detail: String::new() },
    ] {
        let (_, _, helps) =
            contract.iter().find(|(reason, ..)| reason == cause.reason()).expect("a reason");
        assert_eq!(classify(&cause).1.is_some(), *helps, "{cause:?}");
    }
}
