//! The PROXY protocol, versions 1 and 2: the header in which a proxy says whose connection it passes on, before the first byte of that.
//! (HAProxy's `doc/proxy-protocol.txt`.)
//!
//! It is read only from trusted proxies, which must send it then: a gateway that takes connections with and without it from one peer would
//! let a client write its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How version 2 begins. No line of HTTP/1, no preface of HTTP/2 and no TLS record does.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The most that a header of version 1 may have, in bytes, its end included.
const MAX_LINE: usize = 107;

/// The most that version 2 may have behind its 16 bytes: an address and extensions, of which none is read.
const MAX_REST: usize = 4096;

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProxyHeader {
    /// Where the client connected from.
    Client(SocketAddr),
    /// Nothing: the proxy itself connects, as to see whether the gateway is there, or it does not know.
    Nothing,
}

/// Why there is no header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoHeader {
    /// The peer has closed before its first byte, as some checks of load balancers do.
    Closed,
    Malformed,
}

impl From<io::Error> for NoHeader {
    /// It ends too soon, or the connection broke.
    fn from(_: io::Error) -> Self {
        NoHeader::Malformed
    }
}

/// Reads the header, and nothing behind it.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<ProxyHeader, NoHeader> {
    let mut start = [0; SIGNATURE.len()];
    let (first, others) = start.split_at_mut(1);
    if stream.read(first).await? == 0 {
        return Err(NoHeader::Closed);
    }
    stream.read_exact(others).await?;
    if start == SIGNATURE {
        let mut fixed = [0; 4];
        stream.read_exact(&mut fixed).await?;
        let [version_and_command, family, high, low] = fixed;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_REST {
            return Err(NoHeader::Malformed);
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        return version_2(version_and_command, family, &rest).ok_or(NoHeader::Malformed);
    }
    if !start.starts_with(b"PROXY ") {
        return Err(NoHeader::Malformed);
    }
    let mut line = start.to_vec();
    // Byte by byte: what comes behind its end is the client's.
    while line.last() != Some(&b'\n') {
        if line.len() == MAX_LINE {
            return Err(NoHeader::Malformed);
        }
        line.push(stream.read_u8().await?);
    }
    version_1(&line).ok_or(NoHeader::Malformed)
}

/// A whole line, from `PROXY` to its end.
fn version_1(line: &[u8]) -> Option<ProxyHeader> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let mut words = line.split(' ');
    let ("PROXY", family) = (words.next()?, words.next()?) else { return None };
    if family == "UNKNOWN" {
        return Some(ProxyHeader::Nothing);
    }
    let (from, to) = (words.next()?, words.next()?);
    let client: IpAddr = match family {
        "TCP4" => (from.parse::<Ipv4Addr>().ok()?, to.parse::<Ipv4Addr>().ok()?).0.into(),
        "TCP6" => (from.parse::<Ipv6Addr>().ok()?, to.parse::<Ipv6Addr>().ok()?).0.into(),
        _ => return None,
    };
    let port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok())?;
    let (from, _to) = (port(words.next()?)?, port(words.next()?)?);
    words.next().is_none().then(|| ProxyHeader::Client(SocketAddr::new(client.to_canonical(), from)))
}

fn version_2(version_and_command: u8, family: u8, rest: &[u8]) -> Option<ProxyHeader> {
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return None,
    };
    let (client, ports) = match family >> 4 {
        _ if family & 0xf > 2 => return None,
        _ if is_local => return Some(ProxyHeader::Nothing),
        // Unspecified, or a Unix socket.
        0 | 3 => return Some(ProxyHeader::Nothing),
        1 => (IpAddr::from(*rest.first_chunk::<4>()?), rest.get(8..12)?),
        2 => (IpAddr::from(*rest.first_chunk::<16>()?), rest.get(32..36)?),
        _ => return None,
    };
    let port = u16::from_be_bytes(*ports.first_chunk::<2>()?);
    Some(ProxyHeader::Client(SocketAddr::new(client.to_canonical(), port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the header says, and how much behind it is left.
    fn read_all(bytes: &[u8]) -> (Result<ProxyHeader, NoHeader>, usize) {
        let mut left = bytes;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        (runtime.block_on(read(&mut left)), left.len())
    }

    fn client(address: &str) -> Result<ProxyHeader, NoHeader> {
        Ok(ProxyHeader::Client(address.parse().unwrap()))
    }

    fn second(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [203, 0, 113, 1, 10, 0, 0, 1, 0xc3, 0x51, 0x1f, 0x90];

    #[test]
    fn both_versions_name_the_client_and_leave_what_is_behind_them() {
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 1;
        v6[32..34].copy_from_slice(&4711_u16.to_be_bytes());
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 203, 0, 113, 1]);
        let extended = [&V4[..], &[0x04, 0, 1, 0]].concat();
        for (header, told) in [
            (b"PROXY TCP4 203.0.113.1 10.0.0.1 50001 8080\r\n".to_vec(), client("203.0.113.1:50001")),
            (b"PROXY TCP6 2001:db8::1 fd00::1 4711 8080\r\n".to_vec(), client("[2001:db8::1]:4711")),
            (b"PROXY TCP6 ::ffff:203.0.113.1 ::1 1 2\r\n".to_vec(), client("203.0.113.1:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Ok(ProxyHeader::Nothing)),
            (b"PROXY UNKNOWN ffff:f...f:ffff ffff 65535 65535\r\n".to_vec(), Ok(ProxyHeader::Nothing)),
            (second(0x21, 0x11, &V4), client("203.0.113.1:50001")),
            (second(0x21, 0x11, &extended), client("203.0.113.1:50001")),
            (second(0x21, 0x21, &v6), client("[2001:db8::1]:4711")),
            (second(0x21, 0x21, &mapped), client("203.0.113.1:0")),
            (second(0x20, 0x00, b""), Ok(ProxyHeader::Nothing)),
            (second(0x20, 0x11, &V4), Ok(ProxyHeader::Nothing)),
            (second(0x21, 0x00, b""), Ok(ProxyHeader::Nothing)),
            (second(0x21, 0x31, &[0; 216]), Ok(ProxyHeader::Nothing)),
        ] {
            let read = read_all(&[&header[..], b"GET / HTTP/1.1\r\n"].concat());
            assert_eq!(read, (told, 16), "{:?}", header.escape_ascii().to_string());
        }
    }

    #[test]
    fn what_is_no_header_is_malformed() {
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.1 10.0.0.1 50001 8080\n".to_vec(),
            b"PROXY TCP4 203.0.113.1 10.0.0.1 50001 8080".to_vec(),
            b"PROXY TCP4 203.0.113.1 10.0.0.1 50001\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.1 10.0.0.1 50001 8080 1\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.1  10.0.0.1 50001 8080\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.1 10.0.0.1 +5001 8080\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.1 10.0.0.1 65536 8080\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 fd00::1 1 2\r\n".to_vec(),
            b"PROXY TCP6 203.0.113.1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY UDP4 203.0.113.1 10.0.0.1 1 2\r\n".to_vec(),
            b"proxy TCP4 203.0.113.1 10.0.0.1 1 2\r\n".to_vec(),
            [&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n"].concat(),
            second(0x11, 0x11, &V4),
            second(0x22, 0x11, &V4),
            second(0x21, 0x41, &V4),
            second(0x21, 0x13, &V4),
            second(0x21, 0x11, &V4[..11]),
            second(0x21, 0x21, &V4),
            second(0x21, 0x11, &[0; 4097]),
            second(0x21, 0x11, &V4)[..20].to_vec(),
            b"P".to_vec(),
        ] {
            assert_eq!(read_all(&bytes).0, Err(NoHeader::Malformed), "{:?}", bytes.escape_ascii().to_string());
        }
        assert_eq!(read_all(b"").0, Err(NoHeader::Closed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_no_more_of_them_than_a_header_has(
            start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", &SIGNATURE]),
            bytes in prop::collection::vec(any::<u8>(), 0..6000),
        ) {
            let all = [start, &bytes].concat();
            let (_, left) = read_all(&all);
            prop_assert!(all.len() - left <= 16 + MAX_REST);
        }
    }
}
