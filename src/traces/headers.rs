//! The file of `traces.headers_file`: what the collector wants to see with each request, such as
//! a key. Its contents are in no error and no log.

use std::path::Path;

use anyhow::Context as _;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use crate::os::regular;

/// Bytes of the file.
const LONGEST: u64 = 64 << 10;

/// The headers in a file: lines of `NAME: VALUE`; empty ones and those that begin with `#` are
/// none.
pub fn read(file: &Path) -> anyhow::Result<MetadataMap> {
    let named = || format!("traces.headers_file: {}", file.display());
    let content = regular::open(file).and_then(|open| regular::read_bounded(open, LONGEST));
    let text = String::from_utf8(content.with_context(named)?);
    let text = text.map_err(|_| anyhow::anyhow!("is not UTF-8")).with_context(named)?;
    parse(&text).with_context(named)
}

fn parse(text: &str) -> anyhow::Result<MetadataMap> {
    let mut headers = MetadataMap::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line.split_once(':').and_then(|(name, value)| {
            let name: AsciiMetadataKey = name.trim().to_ascii_lowercase().parse().ok()?;
            // The library takes other bytes too, which collectors do not.
            let value = Some(value.trim()).filter(|value| value.is_ascii());
            let mut value: AsciiMetadataValue = value?.parse().ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let (name, value) = header
            .with_context(|| format!("line {number} must be NAME: VALUE, in printable ASCII"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_lines_and_what_is_wrong_is_told_without_them() {
        let headers = parse("# of the collector\n\nX-Api-Key: s3cret: with colon \nb:\n");
        let headers = headers.expect("headers");
        assert_eq!(headers.get("x-api-key").expect("there"), "s3cret: with colon");
        assert_eq!(headers.get("b").expect("there"), "");
        assert!(!format!("{headers:?}").contains("s3cret"));
        for bad in ["s3cret", "a b: s3cret", ": s3cret", "key-bin: s3cret", "a: s3cret\u{e9}"] {
            let error = format!("{:#}", parse(&format!("a: b\n{bad}\n")).expect_err(bad));
            assert!(error.starts_with("line 2 ") && !error.contains("s3cret"), "{error}");
        }
        let missing = format!("{:#}", read(Path::new("/no/such")).expect_err("missing"));
        assert!(missing.starts_with("traces.headers_file: /no/such: "), "{missing}");
    }
}
