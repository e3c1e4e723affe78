//! HTTP/2 by the frame (RFC 9113, 4.1): what libraries would not send, or not in these pieces.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// `:status: 200` in HPACK's static table.
const OK: u8 = 0x88;

/// A connection of HTTP/2.
pub(crate) struct Frames {
    stream: TlsStream<TcpStream>,
    /// The stream of the request that is made now.
    id: u32,
}

/// A piece of a request's body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece {
    Data(&'static str),
    /// With so many bytes of padding.
    Padded(&'static str, u8),
    /// Trailers, which end the request.
    Trailers,
}

impl Frames {
    pub(crate) async fn over(mut stream: TlsStream<TcpStream>) -> Self {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut frames = Self { stream, id: 0 };
        frames.frame(SETTINGS, 0, 0, &[]).await;
        frames
    }

    /// Begins another request, whose body is yet to come.
    pub(crate) async fn request(&mut self, method: &str, path: &str) {
        self.request_with(method, path, &[]).await;
    }

    /// The same with more fields.
    pub(crate) async fn request_with(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) {
        self.id = if self.id == 0 { 1 } else { self.id + 2 };
        let mut block = Vec::new();
        let usual = [
            (":method", method),
            (":scheme", "https"),
            (":path", path),
            (":authority", "gateway.test"),
            ("content-type", "application/json"),
            ("authorization", crate::client::KEY),
        ];
        for (name, value) in usual.iter().chain(fields) {
            literal(&mut block, name, value);
        }
        self.frame(HEADERS, END_HEADERS, self.id, &block).await;
    }

    pub(crate) async fn piece(&mut self, piece: Piece, is_last: bool) {
        let end = if is_last { END_STREAM } else { 0 };
        match piece {
            Piece::Data(text) => self.frame(DATA, end, self.id, text.as_bytes()).await,
            Piece::Padded(text, padding) => {
                let payload = [&[padding], text.as_bytes(), &vec![0; padding.into()]].concat();
                self.frame(DATA, PADDED | end, self.id, &payload).await;
            }
            Piece::Trailers => {
                let mut block = Vec::new();
                literal(&mut block, "x-trailer", "1");
                self.frame(HEADERS, END_HEADERS | END_STREAM, self.id, &block).await;
            }
        }
    }

    /// Reads until the answer's body has so many bytes, or has ended. Returns whether its status was 200, and the body so far.
    pub(crate) async fn answer(&mut self, at_least: usize) -> (bool, Vec<u8>) {
        let (mut is_ok, mut body) = (true, Vec::new());
        loop {
            let (kind, flags, id, payload) = self.read().await;
            match kind {
                SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]).await,
                HEADERS if id == self.id => is_ok = payload.first() == Some(&OK),
                DATA if id == self.id => body.extend_from_slice(&payload),
                RST_STREAM | GOAWAY => panic!("ended by frame {kind}: {payload:?}"),
                _ => {}
            }
            let has_ended = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
            if has_ended || body.len() >= at_least && kind == DATA {
                return (is_ok, body);
            }
        }
    }

    async fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &id.to_be_bytes()].concat();
        self.stream.write_all(&[&head, payload].concat()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn read(&mut self) -> (u8, u8, u32, Vec<u8>) {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.expect("the connection ends without an answer");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.unwrap();
        (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload)
    }
}

/// A field that is not to be indexed (RFC 7541, 6.2.2), without Huffman's code.
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap());
        block.extend_from_slice(text.as_bytes());
    }
}
