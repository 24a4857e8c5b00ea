//! Errors that the gRPC library makes before a call reaches the service: they get a reason
//! like all others.

use http::HeaderMap;
use tonic::{Code, Status};

use super::{
    Violation,
    report::{Report, Text},
};

/// Names the reason of an error that has none. `headers` are those of a response whose call
/// has not been answered by the service itself.
///
/// The library says OUT_OF_RANGE of a message over the limit and INTERNAL of one that cannot
/// be decoded (tonic 0.14). Both are a fault of the request, and INTERNAL would be taken for
/// one of the service.
pub fn complete(headers: &mut HeaderMap) {
    if headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else { return };
    #[expect(clippy::wildcard_enum_match_arm, reason = "codes that only the service itself gives")]
    let told = match status.code() {
        Code::OutOfRange | Code::Internal => {
            let description = status.message().to_owned();
            super::of_rejection(&super::Rejection::Invalid(vec![Violation {
                field: "request".to_owned(),
                description,
            }]))
        }
        Code::Unimplemented => {
            let message = Text::Start(status.message().to_owned());
            let reason = "UNIMPLEMENTED";
            let (metadata, violations) = (Vec::new(), Vec::new());
            let code = Code::Unimplemented;
            Report { code, reason, message, metadata, violations, retry: None }.status()
        }
        _ => return,
    };
    headers.remove(Status::GRPC_MESSAGE);
    // Cannot fail: a report is made of what a header can carry.
    told.add_header(headers).ok();
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn completed(status: &Status) -> Status {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).expect("a status can be sent");
        complete(&mut headers);
        Status::from_header_map(&headers).expect("a status")
    }

    #[test]
    fn an_error_of_the_library_gets_a_reason() {
        let request = "decoded message length too large: found 9 bytes, the limit is: 5 bytes";
        for (made, code, reason) in [
            (Status::out_of_range(request), Code::InvalidArgument, "INVALID_ARGUMENT"),
            (Status::internal(request), Code::InvalidArgument, "INVALID_ARGUMENT"),
            (Status::unimplemented(request), Code::Unimplemented, "UNIMPLEMENTED"),
        ] {
            let told = completed(&made);
            assert_eq!(told.code(), code);
            assert!(told.message().contains(request), "{told:?}");
            let details = told.get_error_details();
            assert_eq!(details.error_info().expect("a reason").reason, reason);
        }
    }

    #[test]
    fn other_answers_stay_as_they_are() {
        let own = super::super::deadline_passed();
        assert_eq!(completed(&own).message(), own.message());
        let mut none = HeaderMap::new();
        complete(&mut none);
        assert!(none.is_empty());
    }
}
