//! What goes along with a call that is forwarded: all metadata of the caller's but what belongs
//! to its connection, what let it in, and its deadline, of which some has passed.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};
use tokio::time::Instant;

use crate::rpc::deadline::{Deadline, TIMEOUT_KEY};

/// What belongs to one connection (RFC 9110, section 7.6.1), or to who calls by it.
const NOT_PASSED_ON: [HeaderName; 14] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HOST,
    EXPECT,
    CONTENT_LENGTH,
    AUTHORIZATION,
    COOKIE,
];

/// Makes the metadata of a call into that of the call that is forwarded.
pub fn pass_on(headers: &mut HeaderMap, deadline: Option<Deadline>) {
    for name in NOT_PASSED_ON {
        headers.remove(name);
    }
    // Without it a proxy on the way may drop the trailers, and with them the status.
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if let Some(Deadline(Some(deadline))) = deadline {
        let left = timeout(deadline.saturating_duration_since(Instant::now()));
        if let Ok(left) = HeaderValue::from_str(&left) {
            headers.insert(TIMEOUT_KEY, left);
        }
    }
}

/// A time in at most eight digits, as fine as they allow, and never longer than it is.
fn timeout(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let seconds = u128::from(left.as_secs());
    let scales = [
        (left.as_nanos(), 'n'),
        (left.as_micros(), 'u'),
        (left.as_millis(), 'm'),
        (seconds, 'S'),
        (seconds / 60, 'M'),
    ];
    let fitting = scales.into_iter().find(|(amount, _)| *amount <= MOST);
    let (amount, unit) = fitting.unwrap_or(((seconds / 3600).min(MOST), 'H'));
    format!("{amount}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_forwarded_call_has_the_caller_s_metadata_and_what_is_left_of_its_time() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("grpc-timeout", "3S"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("session-id", "s"),
            ("x-own-bin", "AAEC"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-go/1.0"),
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("connection", "keep-alive"),
            ("host", "h"),
        ] {
            headers.append(name, value.parse().expect("a value"));
        }
        headers.append("x-own-bin", "BBB".parse().expect("a value"));
        let deadline = Deadline::of(&headers).expect("good");
        tokio::time::advance(Duration::from_millis(1250)).await;
        pass_on(&mut headers, Some(deadline));
        assert_eq!(headers[TIMEOUT_KEY], "1750000u");
        assert_eq!(headers.get_all("x-own-bin").iter().count(), 2);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let kept = ["content-type", "grpc-timeout", "session-id", "te", "traceparent"];
        assert_eq!(names, [&kept[..], &["user-agent", "x-own-bin"]].concat());
        tokio::time::advance(Duration::from_secs(9)).await;
        pass_on(&mut headers, Some(deadline));
        assert_eq!(headers[TIMEOUT_KEY], "0n", "not for ever");
    }

    #[test]
    fn a_timeout_has_at_most_eight_digits() {
        for (seconds, written) in [
            (0, "0n"),
            (99, "99000000u"),
            (100, "100000m"),
            (100_000, "100000S"),
            (100_000_000, "1666666M"),
            (u64::MAX, "99999999H"),
        ] {
            assert_eq!(timeout(Duration::from_secs(seconds)), written);
        }
        assert_eq!(timeout(Duration::from_nanos(100_000_001)), "100000u");
    }
}
