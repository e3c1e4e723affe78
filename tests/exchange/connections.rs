//! Which connection a call is made on, and what stands on it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use sendly_gateway::clock::{Clock, ManualClock, Moment};
use sendly_gateway::upstream::{Loss, Outcome, Sendly};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &str = "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}";
const PATIENCE: Duration = Duration::from_secs(20);

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn still() -> ManualClock {
    ManualClock::new(Moment::from_micros(1_795_424_400_000_000))
}

/// Asks, with `{}` as the body.
async fn ask(sendly: &Sendly) -> Outcome {
    let call = sendly.compose(&Method::POST, "/path", &HeaderMap::new(), None, &Bytes::from_static(b"{}"));
    sendly.call(call, PATIENCE).await
}

/// Hears a request; `None` where the connection ends instead.
async fn hear(stream: &mut TcpStream) -> Option<String> {
    let mut heard = Vec::new();
    while !heard.ends_with(b"{}") {
        if stream.read_buf(&mut heard).await.ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8(heard).unwrap())
}

/// Takes a connection, hears a request and says this.
async fn answer(listener: &TcpListener, say: &str) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    answer_on(&mut stream, say).await;
    stream
}

async fn answer_on(stream: &mut TcpStream, say: &str) {
    hear(stream).await.expect("a request");
    stream.write_all(say.as_bytes()).await.unwrap();
}

/// Whatever has happened on a socket before this, the runtime knows of it afterwards.
async fn settle() {
    let listener = listener().await;
    let (mut near, (mut far, _)) =
        tokio::try_join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept()).unwrap();
    let ((), _) = tokio::join!(async { near.write_all(b"x").await.unwrap() }, far.read_u8());
}

fn is_answered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered(answer) if answer.status == 201)
}

/// Asks once more; whether it is on this connection. A new one is answered too.
async fn is_asked_again(sendly: &Sendly, listener: &TcpListener, stream: &mut TcpStream) -> bool {
    let again = async {
        tokio::select! {
            biased;
            heard = hear(stream) => {
                if heard.is_some() {
                    stream.write_all(ANSWER.as_bytes()).await.unwrap();
                    return true;
                }
                drop(answer(listener, ANSWER).await);
                false
            }
            _new = answer(listener, ANSWER) => false,
        }
    };
    let (outcome, again) = tokio::join!(ask(sendly), again);
    assert!(is_answered(&outcome), "{outcome:?}");
    again
}

#[tokio::test]
async fn a_request_stands_on_the_wire_as_it_was_composed() {
    let listener = listener().await;
    let sendly = crate::sendly(&listener, "", still().into());
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("authorization", "Bearer k"), ("te", "trailers"), ("accept-encoding", "br"), ("x-a", "1"), ("x-a", "2")]
    {
        headers.append(name, HeaderValue::from_static(value));
    }
    let call = sendly.compose(&Method::POST, "/api/v1/verify", &headers, None, &Bytes::from_static(b"{\"to\":{}"));
    let upstream = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let heard = hear(&mut stream).await.unwrap();
        stream.write_all(ANSWER.as_bytes()).await.unwrap();
        heard
    };
    let (outcome, heard) = tokio::join!(sendly.call(call, PATIENCE), upstream);
    assert!(is_answered(&outcome), "{outcome:?}");
    let host = listener.local_addr().unwrap();
    assert_eq!(
        heard,
        format!(
            "POST /api/v1/verify HTTP/1.1\r\nhost: {host}\r\naccept-encoding: identity\r\naccept: application/json\r\n\
             content-type: application/json\r\nauthorization: Bearer k\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 8\r\n\r\n{{\"to\":{{}}"
        )
    );
}

#[tokio::test]
async fn what_is_no_path_is_never_sent() {
    let listener = listener().await;
    let sendly = crate::sendly(&listener, "", still().into());
    for path in ["", "path", "/a b", "/a\r\nx: y", "/\u{e9}", "/a#b", "*", "http://other/"] {
        let call = sendly.compose(&Method::POST, path, &HeaderMap::new(), None, &Bytes::new());
        assert!(matches!(sendly.call(call, PATIENCE).await, Outcome::NotSent), "{path:?}");
    }
    assert!(tokio::time::timeout(Duration::ZERO, listener.accept()).await.is_err());
}

#[tokio::test]
async fn a_connection_is_used_again_unless_its_answer_forbids_it() {
    for (say, again) in [
        (ANSWER, true),
        ("HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", true),
        ("HTTP/1.0 201 Created\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.0 201 Created\r\ncontent-length: 0\r\n\r\n", false),
        ("HTTP/1.1 201 Created\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", false),
        ("HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\nmore", false),
    ] {
        let listener = listener().await;
        let sendly = crate::sendly(&listener, "", still().into());
        let (outcome, mut stream) = tokio::join!(ask(&sendly), answer(&listener, say));
        assert!(is_answered(&outcome), "{say}: {outcome:?}");
        assert_eq!(is_asked_again(&sendly, &listener, &mut stream).await, again, "{say}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_or_spoke_while_it_was_idle_is_not_used() {
    for say in [None, Some("HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")] {
        let listener = listener().await;
        let sendly = crate::sendly(&listener, "", still().into());
        let (outcome, mut stream) = tokio::join!(ask(&sendly), answer(&listener, ANSWER));
        assert!(is_answered(&outcome), "{outcome:?}");
        match say {
            Some(say) => stream.write_all(say.as_bytes()).await.unwrap(),
            None => stream.shutdown().await.unwrap(),
        }
        settle().await;
        assert!(!is_asked_again(&sendly, &listener, &mut stream).await, "{say:?}");
    }
}

#[tokio::test]
async fn a_connection_is_used_again_until_it_has_been_idle_for_too_long() {
    let (listener, clock) = (listener().await, still());
    let sendly = crate::sendly(&listener, "upstream.idle_timeout = \"4s\"", clock.clone().into());
    let (outcome, mut stream) = tokio::join!(ask(&sendly), answer(&listener, ANSWER));
    assert!(is_answered(&outcome), "{outcome:?}");
    for _ in 0..3 {
        clock.advance(Duration::from_micros(3_999_999));
        sendly.sweep();
        assert!(is_asked_again(&sendly, &listener, &mut stream).await);
    }
    clock.advance(Duration::from_secs(4));
    assert!(!is_asked_again(&sendly, &listener, &mut stream).await);
}

#[tokio::test]
async fn a_connection_that_is_never_idle_is_used_until_it_is_as_old_as_it_may_be() {
    let (listener, clock) = (listener().await, still());
    let sendly = crate::sendly(&listener, "upstream.max_age = \"60s\"", clock.clone().into());
    let (outcome, mut stream) = tokio::join!(ask(&sendly), answer(&listener, ANSWER));
    assert!(is_answered(&outcome), "{outcome:?}");
    let mut seconds = 0;
    while is_asked_again(&sendly, &listener, &mut stream).await {
        clock.advance(Duration::from_secs(1));
        seconds += 1;
    }
    assert!((54..=60).contains(&seconds), "{seconds} s");
}

#[tokio::test]
async fn an_exchange_ends_on_a_connection_that_grows_too_old_meanwhile_which_is_closed_then() {
    let (listener, clock) = (listener().await, still());
    let sendly = crate::sendly(&listener, "upstream.max_age = \"10s\"", clock.clone().into());
    let upstream = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        hear(&mut stream).await.expect("a request");
        clock.advance(Duration::from_secs(10));
        stream.write_all(ANSWER.as_bytes()).await.unwrap();
        hear(&mut stream).await
    };
    let (outcome, after) = tokio::join!(ask(&sendly), upstream);
    assert!(is_answered(&outcome) && after.is_none(), "{outcome:?}");
}

#[tokio::test]
async fn a_sweep_closes_what_nobody_will_use() {
    let (listener, clock) = (listener().await, still());
    let sendly = crate::sendly(&listener, "", clock.clone().into());
    let (_, mut stream) = tokio::join!(ask(&sendly), answer(&listener, ANSWER));
    clock.advance(Duration::from_secs(4));
    sendly.sweep();
    assert_eq!(hear(&mut stream).await, None);
}

#[tokio::test]
async fn one_that_was_replaced_ends_its_calls_and_keeps_no_connection() {
    let listener = listener().await;
    let sendly = crate::sendly(&listener, "", still().into());
    let (_, mut idle) = tokio::join!(ask(&sendly), answer(&listener, ANSWER));
    let upstream = async {
        hear(&mut idle).await.expect("a call on the connection that is there");
        sendly.retire();
        idle.write_all(ANSWER.as_bytes()).await.unwrap();
        hear(&mut idle).await
    };
    let (outcome, after) = tokio::join!(ask(&sendly), upstream);
    assert!(is_answered(&outcome) && after.is_none(), "its call ends, and then its connection");
    let (outcome, mut late) = tokio::join!(ask(&sendly), answer(&listener, ANSWER));
    assert!(is_answered(&outcome), "whoever began with it may still call");
    assert_eq!(hear(&mut late).await, None);
}

#[tokio::test]
async fn no_more_connections_are_kept_than_the_pool_may_have() {
    let listener = listener().await;
    for (most, kept) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
        let sendly = crate::sendly(&listener, &format!("upstream.max_idle = {most}"), still().into());
        let upstream = async {
            let mut two = [listener.accept().await.unwrap().0, listener.accept().await.unwrap().0];
            for stream in &mut two {
                answer_on(stream, ANSWER).await;
            }
            two
        };
        let (_, _, two) = tokio::join!(ask(&sendly), ask(&sendly), upstream);
        settle().await;
        let mut closed = 0;
        for mut stream in two {
            closed += usize::from(tokio::time::timeout(Duration::ZERO, hear(&mut stream)).await.is_ok());
        }
        assert_eq!(2 - closed, kept, "of at most {most}");
    }
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_closes_its_connection() {
    let listener = listener().await;
    let sendly = crate::sendly(&listener, "", still().into());
    let mut stream = {
        let call = std::pin::pin!(ask(&sendly));
        let heard = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            hear(&mut stream).await.unwrap();
            stream
        };
        tokio::select! {
            outcome = call => panic!("{outcome:?}"),
            stream = heard => stream,
        }
    };
    assert_eq!(hear(&mut stream).await, None);
}

#[tokio::test]
async fn an_answer_counts_also_if_the_request_was_never_read() {
    let listener = listener().await;
    let sendly = crate::sendly(&listener, "", Clock::system());
    // More than the sockets hold.
    let body = Bytes::from(vec![b' '; 32 << 20]);
    let call = sendly.compose(&Method::POST, "/path", &HeaderMap::new(), None, &body);
    let upstream = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(ANSWER.as_bytes()).await.unwrap();
        stream
    };
    let (outcome, mut stream) = tokio::join!(sendly.call(call, PATIENCE), upstream);
    assert!(is_answered(&outcome), "{outcome:?}");
    drop(sendly);
    let read = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
    assert!(read < body.len() as u64, "and the rest of it is never written");
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_not_whole_if_that_broke() {
    let listener = listener().await;
    let sendly = crate::sendly(&listener, "", still().into());
    let (closed, broken) = (true, false);
    for end in [closed, broken] {
        let upstream = async {
            let mut stream = answer(&listener, "HTTP/1.1 201 Created\r\n\r\n{").await;
            settle().await;
            stream.write_all(b"}").await.unwrap();
            if end == broken {
                settle().await;
                stream.set_zero_linger().unwrap();
            }
        };
        let (outcome, ()) = tokio::join!(ask(&sendly), upstream);
        match outcome {
            Outcome::Answered(answer) => assert!(end == closed && answer.body == "{}"),
            Outcome::Cut(status) => assert!(end == broken && status == 201),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_breaks_before_the_answer_is_lost_and_not_sent_again() {
    for say in ["", "HTTP/1.1 201 Created\r\ncontent-le", "HTTP/1.1 100 Continue\r\n\r\n", "nonsense\r\n\r\n"] {
        let listener = listener().await;
        let sendly = crate::sendly(&listener, "", still().into());
        let (outcome, stream) = tokio::join!(ask(&sendly), async { drop(answer(&listener, say).await) });
        assert!(matches!(outcome, Outcome::Lost(Loss::Broken)), "{say}: {outcome:?}");
        let () = stream;
        assert!(tokio::time::timeout(Duration::ZERO, listener.accept()).await.is_err(), "{say}");
    }
}
