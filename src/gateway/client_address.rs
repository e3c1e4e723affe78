//! Who the client is, where proxies stand before the gateway: read from what trusted proxies say, from the last hop backwards.
//!
//! Each proxy appends whom it was called by. So the last entry was written by the peer, the one before it by the proxy that this entry
//! names, and so on: entries are believed for as long as their writers are trusted. What a client has written itself stands before all of
//! them, and is not reached.
//!
//! The PROXY protocol is not read here: it names the peer itself (`server/proxy_protocol.rs`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering;

use ipnet::IpNet;

use super::Gateway;
use crate::config::{AddressSource, Clients};
use crate::http1::fields::Fields;
use crate::metrics::Unread;

/// What the headers of a request say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoundClient {
    /// The client; the proxy nearest to it that is known, where no header names the client.
    pub(crate) address: Option<IpAddr>,
    /// A trusted proxy wrote something that is no address.
    pub(crate) unread: Option<Unread>,
}

/// Finds the client of a request. The first source that names an address counts.
pub(crate) fn find(
    peer: Option<IpAddr>,
    fields: Fields<'_>,
    sources: &[AddressSource],
    trusted: &[IpNet],
) -> FoundClient {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let Some(peer) = peer.map(|peer| peer.to_canonical()) else { return FoundClient { address: None, unread: None } };
    let mut unread = None;
    if is_trusted(peer) {
        for source in sources {
            let (address, failed) = match source {
                AddressSource::ProxyProtocol => continue,
                AddressSource::Forwarded => {
                    let lines = lines(fields, "forwarded");
                    let elements = lines.iter().rev().flat_map(|line| Elements(Some(line)));
                    (walk(elements.map(forwarded_for), is_trusted), Unread::Forwarded)
                }
                AddressSource::Header(name) => {
                    let lines = lines(fields, name);
                    let entries = lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
                    let entries = entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty());
                    (walk(entries.map(node), is_trusted), Unread::Header)
                }
            };
            let (address, is_whole) = address;
            if !is_whole {
                unread = unread.or(Some(failed));
            }
            if address.is_some() {
                return FoundClient { address, unread };
            }
        }
    }
    FoundClient { address: Some(peer), unread }
}

impl Gateway {
    /// Who called, as the access log and throttles know it.
    pub(crate) fn client(&self, peer: Option<IpAddr>, fields: Fields<'_>, clients: &Clients) -> Option<IpAddr> {
        let FoundClient { address, unread } = find(peer, fields, &clients.address, &clients.trusted_proxies);
        if let Some(source) = unread {
            self.client_is_unread(source);
        }
        address
    }

    /// What a trusted proxy said of its client could not be read.
    pub fn client_is_unread(&self, source: Unread) {
        self.metrics.client_unread(source);
        if !self.said_unread.swap(true, Ordering::Relaxed) {
            let source = source.name();
            tracing::warn!(
                source,
                "a trusted proxy says in no way that can be read who its client is: see clients.address"
            );
        }
    }
}

fn lines<'f>(fields: Fields<'f>, name: &str) -> Vec<&'f [u8]> {
    fields.all(name).collect()
}

/// The first address from the end that is not trusted, or the last one before what cannot be read; and whether all that had to be read
/// could be.
fn walk(entries: impl Iterator<Item = Option<IpAddr>>, is_trusted: impl Fn(IpAddr) -> bool) -> (Option<IpAddr>, bool) {
    let mut found = None;
    for entry in entries {
        let Some(address) = entry else { return (found, false) };
        found = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    (found, true)
}

/// An address as proxies write it: with or without a port, with or without brackets and quotes.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let has_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return has_port.then(|| address.parse::<Ipv6Addr>().ok())?.map(|address| IpAddr::from(address).to_canonical());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = text.split_once(':')?;
    is_port(port).then(|| address.parse::<Ipv4Addr>().ok())?.map(IpAddr::from)
}

/// A port, or an obfuscated one (RFC 7239, 6).
fn is_port(text: &str) -> bool {
    let is_hidden = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    match text.strip_prefix('_') {
        Some(name) => is_hidden(name),
        None => text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok(),
    }
}

/// The elements of a `Forwarded` line, from the last to the first, so that nothing that a client wrote before a proxy's element, such as
/// a quote that does not end, changes how that is read. Empty ones are left out.
struct Elements<'l>(Option<&'l [u8]>);

impl<'l> Iterator for Elements<'l> {
    type Item = &'l [u8];

    fn next(&mut self) -> Option<&'l [u8]> {
        loop {
            let rest = self.0.take()?;
            let mut is_quoted = false;
            let comma = rest.iter().enumerate().rfind(|(at, byte)| match byte {
                b'"' if !(is_quoted && is_escaped(rest, *at)) => {
                    is_quoted = !is_quoted;
                    false
                }
                b',' => !is_quoted,
                _ => false,
            });
            let (before, element) = match comma {
                Some((at, _)) => (rest.get(..at), rest.get(at + 1..).unwrap_or_default()),
                None => (None, rest),
            };
            self.0 = before;
            if !element.trim_ascii().is_empty() {
                return Some(element);
            }
        }
    }
}

/// Whether the character there stands behind an odd number of backslashes.
fn is_escaped(text: &[u8], at: usize) -> bool {
    let before = text.get(..at).unwrap_or_default();
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The address in an element's `for`; `None` also for `unknown`, for a hidden name, and where there is none or two.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let (mut is_quoted, mut after_backslash) = (false, false);
    let pairs = element.split(|byte| {
        match byte {
            _ if after_backslash => after_backslash = false,
            b'\\' if is_quoted => after_backslash = true,
            b'"' => is_quoted = !is_quoted,
            b';' => return !is_quoted,
            _ => {}
        }
        false
    });
    let mut found = None;
    for pair in pairs {
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = pair.split_at(equals);
        if name.trim_ascii().eq_ignore_ascii_case(b"for") && found.replace(node(value.get(1..)?)?).is_some() {
            return None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn header(name: &str) -> AddressSource {
        AddressSource::Header(name.to_owned())
    }

    fn found(peer: &str, sources: &[AddressSource], fields: &[(&str, &[u8])]) -> (Option<String>, Option<Unread>) {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            let (name, value) = (HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value).unwrap());
            map.append(name, value);
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let FoundClient { address, unread } = find(peer.parse().ok(), (&map).into(), sources, &trusted);
        (address.map(|address| address.to_string()), unread)
    }

    fn forwarded_to(value: &str) -> (Option<String>, Option<Unread>) {
        found(PROXY, &[AddressSource::Forwarded], &[("forwarded", value.as_bytes())])
    }

    fn x_forwarded_for(value: &str) -> (Option<String>, Option<Unread>) {
        found(PROXY, &[header("x-forwarded-for")], &[("x-forwarded-for", value.as_bytes())])
    }

    fn is(address: &str) -> (Option<String>, Option<Unread>) {
        (Some(address.to_owned()), None)
    }

    #[test]
    fn addresses_are_read_with_and_without_ports_brackets_and_quotes() {
        for (text, address) in [
            ("203.0.113.1", "203.0.113.1"),
            ("203.0.113.1:50001", "203.0.113.1"),
            (" 203.0.113.1:50001 ", "203.0.113.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("::ffff:203.0.113.1", "203.0.113.1"),
            ("[::ffff:203.0.113.1]:4711", "203.0.113.1"),
            ("198.51.100.7, 203.0.113.1:50001", "203.0.113.1"),
            ("198.51.100.7, 203.0.113.1:50001, 10.0.0.9:1, fd00::7", "203.0.113.1"),
            ("10.0.0.8,10.0.0.9", "10.0.0.8"),
            ("203.0.113.1, ,", "203.0.113.1"),
        ] {
            assert_eq!(x_forwarded_for(text), is(address), "{text:?}");
        }
    }

    #[test]
    fn what_a_trusted_proxy_wrote_and_cannot_be_read_is_told_and_what_a_client_wrote_is_not_reached() {
        for text in ["unknown", "203.0.113.1:", "203.0.113.1:99999", "[203.0.113.1]", "[2001:db8::1", "a.example", "-"]
        {
            assert_eq!(x_forwarded_for(text), (Some(PROXY.to_owned()), Some(Unread::Header)), "{text:?}");
            assert_eq!(x_forwarded_for(&format!("{text}, 203.0.113.1")), is("203.0.113.1"), "{text:?}");
            let behind = x_forwarded_for(&format!("{text}, 10.0.0.9"));
            assert_eq!(behind, (Some("10.0.0.9".to_owned()), Some(Unread::Header)), "{text:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_has_it() {
        for (text, address) in [
            ("for=203.0.113.1", "203.0.113.1"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=203.0.113.1;proto=http;by=203.0.113.43", "203.0.113.1"),
            ("proto=https; for=\"203.0.113.1:50001\" ;host=\"a;for=198.51.100.7,\"", "203.0.113.1"),
            ("for=198.51.100.7, for=203.0.113.1", "203.0.113.1"),
            ("for=198.51.100.7, for=203.0.113.1;by=_p, for=10.0.0.9", "203.0.113.1"),
            ("for=\"203.0.113.1:_port\"", "203.0.113.1"),
            // What a client wrote before it.
            ("for=\"198.51.100.7, for=203.0.113.1", "203.0.113.1"),
            ("for=\"\\\", for=203.0.113.1", "203.0.113.1"),
            (",,for=203.0.113.1,,", "203.0.113.1"),
        ] {
            assert_eq!(forwarded_to(text), is(address), "{text}");
        }
        for text in [
            "for=unknown",
            "for=_hidden",
            "for=\"_SEVKISEK\"",
            "proto=https",
            "for=",
            "for",
            "for=203.0.113.1;for=198.51.100.7",
        ] {
            assert_eq!(forwarded_to(text), (Some(PROXY.to_owned()), Some(Unread::Forwarded)), "{text}");
        }
    }

    #[test]
    fn headers_are_believed_from_trusted_proxies_alone() {
        let fields: [(&str, &[u8]); 2] = [("x-forwarded-for", b"203.0.113.1"), ("forwarded", b"for=203.0.113.2")];
        let sources = [header("x-forwarded-for"), AddressSource::Forwarded];
        assert_eq!(found("198.51.100.9", &sources, &fields), is("198.51.100.9"));
        assert_eq!(found("::ffff:198.51.100.9", &sources, &fields), is("198.51.100.9"));
        assert_eq!(found("::ffff:10.0.0.1", &sources, &fields), is("203.0.113.1"));
        assert_eq!(found(PROXY, &[], &fields), is(PROXY));
        assert_eq!(found(PROXY, &[AddressSource::ProxyProtocol], &fields), is(PROXY));
    }

    #[test]
    fn sources_are_tried_in_order() {
        let sources = [header("cf-connecting-ip"), AddressSource::Forwarded, header("x-forwarded-for")];
        let all: [(&str, &[u8]); 3] = [
            ("x-forwarded-for", b"203.0.113.3"),
            ("forwarded", b"for=203.0.113.2"),
            ("CF-Connecting-IP", b"203.0.113.1"),
        ];
        assert_eq!(found(PROXY, &sources, &all), is("203.0.113.1"));
        assert_eq!(found(PROXY, &sources, &all[..2]), is("203.0.113.2"));
        assert_eq!(found(PROXY, &sources, &all[..1]), is("203.0.113.3"));
        let hidden: [(&str, &[u8]); 2] = [("x-forwarded-for", b"203.0.113.3"), ("forwarded", b"for=unknown")];
        assert_eq!(found(PROXY, &sources, &hidden), (Some("203.0.113.3".to_owned()), Some(Unread::Forwarded)));
    }

    #[test]
    fn several_lines_are_one_list() {
        let lines: [(&str, &[u8]); 2] = [("x-forwarded-for", b"198.51.100.7"), ("x-forwarded-for", b"203.0.113.1")];
        assert_eq!(found(PROXY, &[header("x-forwarded-for")], &lines), is("203.0.113.1"));
        let lines: [(&str, &[u8]); 2] = [("forwarded", b"for=198.51.100.7"), ("forwarded", b"for=203.0.113.1")];
        assert_eq!(found(PROXY, &[AddressSource::Forwarded], &lines), is("203.0.113.1"));
    }

    proptest! {
        /// Whatever a client writes, the trusted proxy's own entry counts.
        #[test]
        fn nothing_that_a_client_writes_changes_who_it_is(hostile in prop::collection::vec(b' '..=b'~', 0..200)) {
            for (source, name, own) in [
                (header("x-forwarded-for"), "x-forwarded-for", ", 203.0.113.1:50001"),
                (AddressSource::Forwarded, "forwarded", ", for=203.0.113.1"),
                (AddressSource::Forwarded, "forwarded", ",for=\"203.0.113.1:5\";proto=https"),
            ] {
                let line = [hostile.as_slice(), own.as_bytes()].concat();
                prop_assert_eq!(found(PROXY, &[source], &[(name, &line)]), is("203.0.113.1"));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (node(&bytes), Elements(Some(&bytes)).map(forwarded_for).count());
        }
    }
}
