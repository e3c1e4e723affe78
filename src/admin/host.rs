//! By which name the listener was called.
//!
//! A web page may send the browser that shows it to a name of the page's own, and let that name lead to this listener a moment later (DNS
//! rebinding): the browser then takes what it is answered for that page's. What gives it away is the name, which the browser tells. An
//! address cannot be made to lead elsewhere, and `localhost` leads nowhere else.

use std::net::{IpAddr, Ipv6Addr};

use http::header::HOST;
use pingora::http::RequestHeader;

/// Whether a request calls the listener by an address, by `localhost`, or by one of these names. One that names nobody comes from no
/// browser.
pub(super) fn is_own(request: &RequestHeader, names: &[String]) -> bool {
    let fields = request.headers.get_all(HOST).iter().map(|host| host.as_bytes());
    let target = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    fields.chain(target).all(|authority| std::str::from_utf8(authority).is_ok_and(|called| is_one_of(called, names)))
}

fn is_one_of(authority: &str, names: &[String]) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    if let Some(address) = host.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    // The name of the root may stand at the end of any.
    let name = host.strip_suffix('.').unwrap_or(host);
    let is = |own: &str| name.eq_ignore_ascii_case(own);
    host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4()) || is("localhost") || names.iter().any(|own| is(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_the_names_that_were_given_are_its_own_and_nothing_else_is() {
        let names = ["gateway.internal".to_owned(), "sendly_gateway".to_owned()];
        for own in [
            "127.0.0.1",
            "127.0.0.1:9090",
            "10.1.2.3:80",
            "[::1]",
            "[::1]:9090",
            "localhost",
            "LocalHost:9090",
            "localhost.",
            "gateway.internal",
            "Gateway.Internal.:9090",
            "sendly_gateway:9090",
        ] {
            assert!(is_one_of(own, &names), "{own}");
        }
        for foreign in [
            "",
            ":9090",
            "evil.example",
            "evil.example:9090",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "xgateway.internal",
            "gateway",
            "user@127.0.0.1",
            "127.0.0.1@evil.example",
            "127.0.0.1 evil.example",
            "127.0.0.1:9090:9090",
            "127.1",
            "2130706433",
            "::1",
            "[::1",
            "[evil.example]",
            "[127.0.0.1]",
            "localhost..",
        ] {
            assert!(!is_one_of(foreign, &names), "{foreign}");
        }
    }
}
