//! `[traces]`: whether traces are recorded, and where to.

use super::mistake::Mistakes;
use super::origin;
use super::raw::Given;
use super::section::Section;
use crate::config::traces::{Collector, Traces};

/// Reads the section.
pub(super) fn traces(keys: &mut Section<'_, '_>) -> Traces {
    let url = keys.optional("url", origin::base_url);
    let headers = keys.secret("headers", "headers_file", headers);
    let ca_file = keys.file("ca_file");
    let (is_there, speaks_tls) = (url.is_some(), url.as_ref().is_some_and(|(origin, _)| origin.tls));
    keys.rule(is_there || headers.is_none(), &["headers", "url"], "no headers, or a url to send them to");
    keys.rule(speaks_tls || ca_file.is_none(), &["ca_file", "url"], "no ca_file, or a url that is https");
    Traces {
        collector: url.map(|(origin, base)| Collector { origin, base, headers: headers.unwrap_or_default(), ca_file }),
        sample: keys.get("sample", 1.0, share),
        service: keys.get("service", "sendly-gateway".to_owned(), service),
    }
}

/// A share of all.
fn share(given: &Given<'_>) -> Result<f64, Mistakes> {
    let share = given.decimal().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| given.expected("a number from 0 to 1"))
}

/// What a service is called.
fn service(given: &Given<'_>) -> Result<String, Mistakes> {
    let is_name = |text: &&str| (1..=255).contains(&text.len()) && !text.contains(char::is_control);
    given.text().filter(is_name).map(str::to_owned).ok_or_else(|| given.expected("a name of 1 to 255 bytes"))
}

/// Headers, as the variable `OTEL_EXPORTER_OTLP_HEADERS` has them, from where they may be copied.
fn headers(given: &Given<'_>) -> Result<Vec<(String, String)>, Mistakes> {
    let headers = given.text().and_then(parse);
    headers.ok_or_else(|| {
        given.expected(r#"headers such as "authorization=Bearer%20secret,x-team=ops" (values percent-encoded)"#)
    })
}

fn parse(text: &str) -> Option<Vec<(String, String)>> {
    let header = |text: &str| {
        let (name, value) = text.split_once('=')?;
        let name = name.trim().to_ascii_lowercase();
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8().ok()?;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_name = !name.is_empty() && name.bytes().all(is_token);
        // A value that is sent as it stands: no control characters, which could begin another header.
        let is_value = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        (is_name && is_value).then(|| (name, value.into_owned()))
    };
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(header).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_are_read_as_opentelemetry_writes_them() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(parse("authorization=Bearer%20a%3Db"), Some(vec![header("authorization", "Bearer a=b")]));
        let two = vec![header("x-team", "ops"), header("x-key", "a=b")];
        assert_eq!(parse(" X-Team=ops , x-key=a=b,"), Some(two));
        assert_eq!(parse(""), Some(vec![]));
        for wrong in ["x", "=x", "x=", "x y=z", "x=a%0d%0ay:%20z", "x=%ff", "x=a\u{e9}"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".*=.*") {
            let _ = parse(&text);
        }
    }
}
