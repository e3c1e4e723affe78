//! Where something is: a URL that is nothing but an origin, or the name of a host.

use std::net::Ipv6Addr;

use super::mistake::Mistakes;
use super::raw::Given;
use crate::config::Origin;

/// An origin. A path, a query or a user would be dropped in silence, so there can be none.
pub(super) fn origin(given: &Given<'_>) -> Result<Origin, Mistakes> {
    const EXPECTED: &str = r#"the URL of an origin such as "https://sendly.live" (http or https, no path)"#;
    given.text().and_then(parse).ok_or_else(|| match given.text() {
        // What is more than an origin may be a secret.
        Some(text) if text.contains(['@', '?']) => given.expected_but_found(EXPECTED, "a user or a query in it"),
        _ => given.expected(EXPECTED),
    })
}

/// An origin and a path below which something stands: that without a slash at its end.
pub(super) fn base_url(given: &Given<'_>) -> Result<(Origin, String), Mistakes> {
    const EXPECTED: &str = r#"a URL such as "http://127.0.0.1:4318" (http or https, no user, no query)"#;
    given.text().and_then(parse_base).ok_or_else(|| match given.text() {
        Some(text) if text.contains(['@', '?']) => given.expected_but_found(EXPECTED, "a user or a query in it"),
        _ => given.expected(EXPECTED),
    })
}

/// The name of a host, without a port.
pub(super) fn host_name(given: &Given<'_>) -> Result<String, Mistakes> {
    let name = given.text().filter(|name| is_host(name)).map(str::to_ascii_lowercase);
    name.ok_or_else(|| given.expected(r#"the name of a host such as "gateway.internal", without a port"#))
}

fn parse(url: &str) -> Option<Origin> {
    let (origin, path) = split(url)?;
    matches!(path, "" | "/").then_some(origin)
}

fn parse_base(url: &str) -> Option<(Origin, String)> {
    let (origin, path) = split(url)?;
    // Of a path no more than unreserved characters and slashes (RFC 3986, 2.3): there is nothing to decode, and no query.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    path.bytes().all(is_plain).then(|| (origin, path.trim_end_matches('/').to_owned()))
}

/// An origin, and what stands behind it.
fn split(url: &str) -> Option<(Origin, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (tls, default_port) = match scheme {
        "https" => (true, 443),
        "http" => (false, 80),
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = parse_host_and_port(authority, default_port)?;
    Some((Origin { tls, host, port }, path))
}

/// A host, without its brackets, and its port, or this one.
pub(super) fn parse_host_and_port(authority: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        // A colon within brackets is part of an IPv6 address.
        Some((host, port)) if !port.ends_with(']') => (host, parse_port(port)?),
        _ => (authority, default_port),
    };
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|address| address.parse::<Ipv6Addr>().is_ok())?,
        None => Some(host).filter(|host| is_host(host))?,
    };
    Some((host.to_ascii_lowercase(), port))
}

fn parse_port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?.filter(|port| *port != 0)
}

/// Whether it is a name (RFC 1123, and the underscores of container networks) or an IPv4 address.
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port() {
        for (url, tls, host, port) in [
            ("https://sendly.live", true, "sendly.live", 443),
            ("https://sendly.live/", true, "sendly.live", 443),
            ("http://127.0.0.1:8081", false, "127.0.0.1", 8081),
            ("http://[::1]", false, "::1", 80),
            ("http://[::1]:8081/", false, "::1", 8081),
            ("http://sandbox_1:80", false, "sandbox_1", 80),
            ("https://SENDLY.live", true, "sendly.live", 443),
        ] {
            assert_eq!(parse(url), Some(Origin { tls, host: host.to_owned(), port }), "{url:?}");
        }
    }

    #[test]
    fn anything_more_or_less_is_none() {
        for url in [
            "",
            "sendly.live",
            "//sendly.live",
            "https://",
            "https:///",
            "https://:443",
            "https://sendly.live:",
            "https://sendly.live:0",
            "https://sendly.live:65536",
            "https://sendly.live:+443",
            "https://sendly.live//",
            "https://sendly.live/api",
            "https://sendly.live?key=1",
            "https://sendly.live#there",
            "https://user:password@sendly.live",
            "https://sendly..live",
            "https://sendly.live ",
            "https://::1",
            "https://[::1",
            "https://[sendly.live]",
            "https://[::1]443",
            "ftp://sendly.live",
            "https://sëndly.live",
        ] {
            assert_eq!(parse(url), None, "{url:?}");
        }
    }

    #[test]
    fn a_base_may_have_a_path_and_nothing_else() {
        let origin = Origin { tls: true, host: "a".to_owned(), port: 443 };
        for (url, base) in
            [("https://a", ""), ("https://a/", ""), ("https://a/otlp", "/otlp"), ("https://a/b/c/", "/b/c")]
        {
            assert_eq!(parse_base(url), Some((origin.clone(), base.to_owned())), "{url:?}");
        }
        for url in
            ["a/b", "https://a/b?c", "https://a/b#c", "https://u:p@a/b", "https://a/b c", "https://a/%62", "https:///b"]
        {
            assert_eq!(parse_base(url), None, "{url:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(https?://)?.*") {
            let _ = parse(&text);
            let _ = parse_base(&text);
        }
    }
}
