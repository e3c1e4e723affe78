//! HTTP/1.1: calls as ready bytes, on connections of the gateway's own. Why not a library's: see docs/decisions.

use http::Method;
use http::uri::Authority;

use super::connect::Connector;
use super::connection::{Connection, End};
use super::max_age::MaxAge;
use super::pool::Pool;
use super::{Loss, Outcome, headers};
use crate::clock::Clock;
use crate::config::Upstream;
use crate::http1::error::ReadError;
use crate::http1::fields::Fields;
use crate::http1::response::Progress;
use crate::tls_roots::Authorities;
use crate::trace;

/// A request as it will stand on the wire, head and body.
pub(crate) struct WireCall {
    method: Method,
    wire: Vec<u8>,
}

impl WireCall {
    /// `None` where the path is none.
    pub(crate) fn compose(
        host: &Authority,
        method: &Method,
        path: &str,
        fields: Fields<'_>,
        traced: Option<&trace::TracedCall>,
        body: &[u8],
    ) -> Option<Self> {
        // It was canonicalised. But a request line is no place to trust in that.
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return None;
        }
        let mut wire = Vec::with_capacity(512 + body.len());
        const ACCEPT: &str = "\r\naccept-encoding: identity\r\naccept: application/json\r\n";
        for part in [method.as_str(), " ", path, " HTTP/1.1\r\nhost: ", host.as_str(), ACCEPT] {
            wire.extend_from_slice(part.as_bytes());
        }
        if method == Method::POST {
            wire.extend_from_slice(b"content-type: application/json\r\n");
        }
        for (name, value) in headers::forwardable(fields, traced) {
            for part in [name, b": ", value, b"\r\n"] {
                wire.extend_from_slice(part);
            }
        }
        // Of no length at all, a server may wait for the end (RFC 9110, 8.6).
        if !body.is_empty() || method == Method::POST {
            wire.extend_from_slice(b"content-length: ");
            wire.extend_from_slice(body.len().to_string().as_bytes());
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"\r\n");
        wire.extend_from_slice(body);
        Some(Self { method: method.clone(), wire })
    }
}

/// Sendly over HTTP/1.1.
pub(crate) struct Client {
    pool: Pool,
    connector: Connector,
    max_age: MaxAge,
    clock: Clock,
}

impl Client {
    /// # Errors
    /// What is wrong with the origin's name.
    pub(crate) fn new(upstream: &Upstream, authorities: &Authorities, clock: Clock) -> Result<Self, String> {
        let most = upstream.max_idle.min(upstream.max_connections.div_ceil(2));
        let pool = Pool::new(most, upstream.idle_timeout);
        let max_age = MaxAge::new(upstream.max_age);
        Ok(Self { pool, connector: Connector::new(upstream, authorities)?, max_age, clock })
    }

    /// Makes a call. Nobody who waits for it any longer drops it, and with it its connection.
    pub(crate) async fn call(&self, call: WireCall) -> Outcome {
        while let Some(pooled) = self.pool.take(self.clock.now()) {
            // Whatever ended it before a byte was written, another connection may do.
            if let Ok(outcome) = self.exchange(pooled, &call).await {
                return outcome;
            }
        }
        let end = self.max_age.end_of_connection(self.clock.now());
        // Boxed: it is large, and seldom needed.
        let unsent = match Box::pin(self.connector.connect(end)).await {
            Ok(connection) => match self.exchange(connection, &call).await {
                Ok(outcome) => return outcome,
                Err(error) => error,
            },
            Err(error) => error,
        };
        tracing::warn!(error = %unsent, "Sendly could not be reached");
        Outcome::NotSent
    }

    /// Closes idle connections that nobody will use.
    pub(crate) fn sweep(&self) {
        self.pool.sweep(self.clock.now());
    }

    /// Keeps no connection any more.
    pub(crate) fn retire(&self) {
        self.pool.close();
    }

    /// The outcome of an exchange on this connection.
    ///
    /// # Errors
    /// Not a byte was written.
    async fn exchange(&self, mut connection: Connection, call: &WireCall) -> std::io::Result<Outcome> {
        let (step, error) = match connection.exchange(&call.method, &call.wire).await {
            End::Unsent(error) => return Err(error),
            End::Sent(step, error) => (step, error),
        };
        Ok(match step {
            Progress::Whole(answer, reusable) => {
                if reusable {
                    self.pool.give_back(connection, self.clock.now());
                }
                Outcome::Answered(answer)
            }
            Progress::Failed(Some(status), flaw) => {
                let error = error.map(tracing::field::display);
                tracing::warn!(status = status.as_u16(), error, ?flaw, "Sendly's answer was cut");
                Outcome::Cut(status)
            }
            Progress::Failed(None, ReadError::Incomplete) | Progress::More => {
                let error = error.map(tracing::field::display);
                tracing::warn!(error, "Sendly broke off before it answered");
                Outcome::Lost(Loss::Broken)
            }
            Progress::Failed(None, flaw) => {
                tracing::warn!(?flaw, "Sendly's answer cannot be understood");
                Outcome::Lost(Loss::Broken)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock::{ManualClock, Moment};
    use crate::config::Config;
    use crate::upstream;

    /// Answers each request of each connection with its own address.
    async fn listen() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                tokio::spawn(async move {
                    let mut line = String::new();
                    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                        if line == "\r\n" {
                            let body = address.to_string();
                            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                            stream.write_all(answer.as_bytes()).await.unwrap();
                        }
                        line.clear();
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_connection_that_is_never_idle_follows_a_change_of_addresses_within_its_greatest_age() {
        let (old, new) = (listen().await, listen().await);
        let config = "[upstream]\nurl = \"http://sendly.test\"\nmax_age = \"5m\"\n";
        let upstream = Config::parse(config, "test", [].into_iter()).unwrap().upstream;
        let clock = ManualClock::new(Moment::from_micros(1_795_424_400_000_000));
        let mut client =
            Client::new(&upstream, &upstream::authorities(&upstream).unwrap(), clock.clone().into()).unwrap();
        let known = Arc::new(Mutex::new((old, 0)));
        let resolver = Arc::clone(&known);
        client.connector = client.connector.resolving_by(Box::new(move |host, port| {
            assert_eq!((host.as_str(), port), ("sendly.test", 80));
            let mut known = resolver.lock();
            known.1 += 1;
            let found = vec![known.0];
            Box::pin(async move { Ok(found) })
        }));
        let host = upstream::authority(&upstream.origin).unwrap();
        let ask = async || {
            let call =
                WireCall::compose(&host, &Method::GET, "/", (&http::HeaderMap::new()).into(), None, b"").unwrap();
            match client.call(call).await {
                Outcome::Answered(answer) => String::from_utf8(answer.body.to_vec()).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(ask().await, old.to_string());
        known.lock().0 = new;
        let mut seconds = 0;
        while ask().await == old.to_string() {
            clock.advance(Duration::from_secs(1));
            seconds += 1;
        }
        assert!((270..=300).contains(&seconds), "{seconds} s");
        assert_eq!(known.lock().1, 2, "the name is resolved for each connection, and for no request");
    }
}
