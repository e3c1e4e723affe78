//! What is done to a request that streams through, and to its answer: as little as can be.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::{StatusCode, Uri, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorSource, ErrorType};

use crate::api::Operation;
use crate::api::body::MAX_ANSWER;
use crate::clock::Moment;
use crate::gateway::Gateway;
use crate::gateway::admission::AdmittedKey;
use crate::gateway::evidence::{self, Evidence};
use crate::gateway::reply::Reply;
use crate::gateway::slots::Slot;
use crate::metrics::Outcome;
use crate::trace::{self, CallFailure};
use crate::upstream;

/// Turns the client's request header into the one that Sendly gets.
pub(crate) fn request(
    upstream: &mut RequestHeader,
    host: &HeaderValue,
    operation: Operation,
    passed: &Passthrough,
) -> pingora::Result<()> {
    let path = passed.path.as_deref().unwrap_or_else(|| upstream.uri.path());
    // `http://host/path`, as to a proxy: pingora keeps it beside the path that it read in it, and would send it so.
    let absolute = !matches!(upstream.raw_path().first(), Some(b'/' | b'*'));
    if absolute || passed.path.is_some() {
        let target = match upstream.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let uri = Uri::try_from(target).map_err(|error| Error::because(ErrorType::InvalidHTTPHeader, "path", error))?;
        upstream.set_uri(uri);
    }
    upstream.insert_header(header::HOST, host)?;
    if upstream.headers.contains_key(header::EXPECT) {
        upstream.remove_header(&header::EXPECT);
    }
    let traced = passed.traced.as_deref();
    let stays_behind = |name: &&HeaderName| {
        let name = name.as_str().as_bytes();
        upstream::is_misleading(name) || traced.is_some_and(|call| call.replaces(name))
    };
    let left: Vec<HeaderName> = upstream.headers.keys().filter(stays_behind).cloned().collect();
    for name in &left {
        upstream.remove_header(name);
    }
    if let Some(call) = traced {
        upstream.insert_header("traceparent", call.traceparent().as_str())?;
    }
    if operation.shows_phone() {
        // The answer is read on its way.
        upstream.remove_header(&header::ACCEPT_ENCODING);
    }
    Ok(())
}

/// Takes an empty last piece of a body away. pingora would write it as a chunk: one of size 0, which ends the body, and then the end
/// itself, which Sendly would take for the beginning of the next request (cloudflare/pingora#935).
pub(crate) fn end_once(piece: &mut Option<Bytes>, end: bool) {
    if end && piece.as_ref().is_some_and(Bytes::is_empty) {
        *piece = None;
    }
}

/// Makes an answer one that this client can read.
pub(crate) fn response(answer: &mut ResponseHeader, client: Version) -> pingora::Result<()> {
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        // No upgrade is ever asked for: see the peer's options.
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, "an upgrade that nobody asked for").into_up());
    }
    if client < Version::HTTP_11 {
        // It knows no chunks, which pingora gives even to an answer that has none: the connection's end is its answer's.
        answer.remove_header(&header::TRANSFER_ENCODING);
    }
    Ok(())
}

/// An answer that is read on its way: held back until it is whole, so that what it shows is known before the client sees it.
#[derive(Debug)]
pub(crate) struct Capture {
    body: BytesMut,
    /// Its length, if the header tells.
    announced: Option<usize>,
}

impl Capture {
    /// The capture of this answer, if it may show a verification's phone.
    pub(crate) fn of(operation: Operation, answer: &ResponseHeader) -> Option<Self> {
        let readable = answer.status.is_success() && operation.shows_phone();
        let announced = answer.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        (readable && announced.is_none_or(|length| length <= MAX_ANSWER))
            .then(|| Self { body: BytesMut::with_capacity(announced.unwrap_or(1024)), announced })
    }

    /// The capture of a refusal of this length, which may say something of the key.
    fn of_refusal(answer: &ResponseHeader) -> Self {
        let announced = answer.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { body: BytesMut::new(), announced }
    }

    /// What was held back.
    pub(crate) fn into_body(self) -> Bytes {
        self.body.freeze()
    }

    /// Whether it is not announced as too long, or as nothing.
    fn is_readable(&self) -> bool {
        self.announced.is_none_or(|length| (1..=MAX_ANSWER).contains(&length))
    }

    fn is_whole(&self, end: bool) -> bool {
        end || self.announced.is_some_and(|length| self.body.len() >= length)
    }
}

/// Holds a chunk back until the answer is whole; then lets all of it go, and returns it. An answer that grows too long is let
/// go unread.
pub(crate) fn hold_back(capture: &mut Option<Capture>, chunk: &mut Option<Bytes>, end: bool) -> Option<Bytes> {
    let held = capture.as_mut()?;
    if let Some(bytes) = chunk.take() {
        held.body.extend_from_slice(&bytes);
    }
    let too_long = held.body.len() > MAX_ANSWER;
    if !too_long && !held.is_whole(end) {
        return None;
    }
    let whole = capture.take()?.into_body();
    *chunk = Some(whole.clone());
    (!too_long).then_some(whole)
}

/// What is known of a request that streams to Sendly, beside what is known of every [`Request`].
#[derive(Debug, Default)]
pub(crate) struct Passthrough {
    /// The canonical path, where it differs from what came.
    pub(crate) path: Option<String>,
    pub(crate) key: AdmittedKey,
    pub(crate) capture: Option<Capture>,
    /// Whether its answer is JSON.
    is_json: bool,
    /// Whether its answer has said what it says of the key.
    is_judged: bool,
    pub(crate) sent_upstream: Option<Moment>,
    /// The status that Sendly answered it with, and why that answer is not whole.
    pub(crate) answered: Option<u16>,
    pub(crate) failure: Option<CallFailure>,
    pub(crate) traced: Option<Box<trace::TracedCall>>,
    /// The connection to Sendly that pingora may use for it.
    pub(crate) to_sendly: Option<[Slot; 2]>,
}

impl Passthrough {
    /// Learns from an answer's head what it says of the key, or has its body captured, where the body says it.
    pub(crate) fn judge_head(&mut self, gateway: &Arc<Gateway>, answer: &ResponseHeader) {
        let content_type = answer.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        self.is_json = content_type.is_some_and(evidence::is_json);
        let may_disprove = matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS);
        let is_proven = self.key.pass.is_none() && self.key.account.is_some();
        if is_proven && !may_disprove {
            self.is_judged = true;
            return;
        }
        if answer.status.is_client_error() {
            // Sendly's errors are small: one whose body is too long, or that has none, is judged by its status at the end.
            self.capture = Some(Capture::of_refusal(answer)).filter(Capture::is_readable);
            return;
        }
        let evidence = evidence::of_success(self.key.asked, answer.status, self.is_json);
        self.judge(gateway, evidence);
    }

    /// Learns from an answer that is whole.
    pub(crate) fn read_captured(&mut self, gateway: &Arc<Gateway>, operation: Operation, body: &[u8]) {
        let status = self.answered.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or_default();
        if status.is_success() {
            gateway.learn(operation, self.key.account, body);
        } else if !self.is_judged {
            let evidence = evidence::of_answer(self.key.asked, status, self.is_json, body);
            self.judge(gateway, evidence);
        }
    }

    /// The request is over: an answer that was not heard, and may have spoken against the key, counts against it.
    pub(crate) fn end_judging(&mut self, gateway: &Arc<Gateway>, outcome: Outcome) {
        if self.sent_upstream.is_some() && !self.is_judged {
            let evidence = match self.answered {
                Some(401) => Evidence::Failed,
                // The client left before Sendly answered.
                None if self.key.pass.is_some() && outcome == Outcome::Abandoned => Evidence::Failed,
                _ => Evidence::Silent,
            };
            self.judge(gateway, evidence);
        }
        self.key.pass = None;
    }

    fn judge(&mut self, gateway: &Arc<Gateway>, evidence: Evidence) {
        self.is_judged = true;
        gateway.judge_key(self.key.account, evidence);
        // The answer says no more of the key: others may go.
        self.key.pass = None;
    }
}

/// What became of a request that broke off, perhaps before anything was sent, and what its client is told; nothing, where it is
/// the client that has gone.
pub(crate) fn failure(error: &Error, sent: bool) -> (Outcome, Option<Reply>) {
    use ErrorType::{ConnectionClosed, HTTPStatus, ReadError, ReadTimedout, WriteError, WriteTimedout};
    // What the client's own connection says of its request's body (`listener/connection.rs`).
    let kind = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
    let (outcome, reply) = match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ReadError) if kind == Some(io::ErrorKind::InvalidData) => {
            (Outcome::Rejected, Reply::invalid_request("The request's body is in no chunks that could be read."))
        }
        (ErrorSource::Downstream, ReadError) if kind == Some(io::ErrorKind::TimedOut) => {
            (Outcome::Rejected, Reply::body_timeout())
        }
        (ErrorSource::Downstream, WriteError | WriteTimedout | ReadError | ConnectionClosed) => {
            return (Outcome::Abandoned, None);
        }
        (ErrorSource::Downstream, ReadTimedout) => (Outcome::Rejected, Reply::body_timeout()),
        (ErrorSource::Downstream, _) => (Outcome::Rejected, Reply::invalid_request("The request cannot be read.")),
        (_, HTTPStatus(502)) => (Outcome::Failed, Reply::unreachable()),
        (ErrorSource::Upstream, _) if !sent => (Outcome::Failed, Reply::unreachable()),
        (ErrorSource::Upstream, ReadTimedout | WriteTimedout) => (Outcome::Failed, Reply::upstream_timeout()),
        (ErrorSource::Upstream, _) => (Outcome::Failed, Reply::broken_off()),
        (ErrorSource::Internal | ErrorSource::Unset, _) => (Outcome::Failed, Reply::internal()),
    };
    (outcome, Some(reply))
}

/// Why there is no whole answer from Sendly, where that is so.
pub(crate) fn loss(error: &Error, was_sent: bool, was_answered: bool) -> Option<CallFailure> {
    use ErrorType::{ReadTimedout, WriteTimedout};
    match (error.esource(), error.etype()) {
        (ErrorSource::Upstream, _) if !was_sent => Some(CallFailure::NotSent),
        (ErrorSource::Upstream, _) if was_answered => Some(CallFailure::Cut),
        (ErrorSource::Upstream, ReadTimedout | WriteTimedout) => Some(CallFailure::Timeout),
        (ErrorSource::Upstream, _) => Some(CallFailure::Broken),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, length: Option<usize>) -> ResponseHeader {
        let mut header = ResponseHeader::build(status, None).unwrap();
        if let Some(length) = length {
            header.insert_header("content-length", length).unwrap();
        }
        header
    }

    fn chunks(capture: &mut Option<Capture>, chunks: &[(&'static [u8], bool)]) -> (Vec<u8>, Option<Bytes>) {
        let (mut seen, mut read) = (Vec::new(), None);
        for (bytes, end) in chunks {
            let mut chunk = Some(Bytes::from_static(bytes));
            read = hold_back(capture, &mut chunk, *end).or(read);
            seen.extend_from_slice(&chunk.unwrap_or_default());
        }
        (seen, read)
    }

    #[test]
    fn an_answer_is_let_go_when_it_is_whole() {
        let mut capture = Capture::of(Operation::Get, &answer(200, None));
        let (seen, read) = chunks(&mut capture, &[(b"ab", false), (b"cd", false)]);
        assert!(seen.is_empty() && read.is_none(), "the client sees nothing of it yet");
        let (seen, read) = chunks(&mut capture, &[(b"e", true)]);
        assert_eq!((seen.as_slice(), read.as_deref()), (b"abcde".as_slice(), Some(b"abcde".as_slice())));
    }

    #[test]
    fn an_announced_length_is_enough_to_know_the_end() {
        let mut capture = Capture::of(Operation::Check, &answer(200, Some(4)));
        let (seen, read) = chunks(&mut capture, &[(b"ab", false), (b"cd", false)]);
        assert_eq!((seen.as_slice(), read.as_deref()), (b"abcd".as_slice(), Some(b"abcd".as_slice())));
    }

    #[test]
    fn what_is_too_long_to_read_passes_unread() {
        assert!(Capture::of(Operation::Get, &answer(200, Some(MAX_ANSWER + 1))).is_none());
        let long: &'static [u8] = Box::leak(vec![b'x'; MAX_ANSWER].into_boxed_slice());
        let mut capture = Capture::of(Operation::Get, &answer(200, None));
        let (seen, read) = chunks(&mut capture, &[(long, false), (b"y", false), (b"z", true)]);
        assert_eq!((seen.len(), read), (MAX_ANSWER + 2, None));
    }

    #[test]
    fn only_answers_that_show_a_phone_are_held_back() {
        assert!(Capture::of(Operation::Get, &answer(404, None)).is_none());
        assert!(Capture::of(Operation::Other, &answer(200, None)).is_none());
        assert!(Capture::of(Operation::List, &answer(200, None)).is_none());
    }
}
