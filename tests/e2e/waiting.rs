//! A limit that is full only of codes in flight refuses nobody for good: who comes meanwhile waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use crate::start::{Gateway, gateway_with};
use crate::upstream::Act;

const PHONE: &str = "+15550100123";

/// Two codes an hour per phone.
const LIMITS: &str = r#"
    [[limits]]
    name = "two"
    per = "phone"
    max = 2
    window = "1h"
"#;

const RETRY_LATER: &str = r#"{"error":"rejected","message":"scripted"}"#;

/// Holds the first `held` sends until they are let go, and answers them so; all others get their code.
async fn holding(config: &str, held: usize, status: u16) -> Gateway {
    let gateway = gateway_with(config).await;
    let seen = AtomicUsize::new(0);
    gateway.upstream.script(move |_| match seen.fetch_add(1, Ordering::Relaxed) {
        nth if nth < held && status < 300 => {
            let Act::Answer(_, _, body) = Act::verification(status, &format!("ver_{nth}"), PHONE) else {
                unreachable!()
            };
            Act::AnswerWhenLet(status, body)
        }
        nth if nth < held => Act::AnswerWhenLet(status, RETRY_LATER.into()),
        nth => Act::verification(201, &format!("ver_{nth}"), PHONE),
    });
    gateway
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_waits_goes_out_when_one_in_flight_is_given_back() {
    let gateway = holding(LIMITS, 2, 400).await;
    let let_go = async {
        gateway.shows("sendly_gateway_limit_waiting", 1).await;
        gateway.upstream.let_go(2);
    };
    let later = async {
        gateway.upstream.has_seen(2).await;
        gateway.send(PHONE).await
    };
    let (one, other, third, ()) = tokio::join!(gateway.send(PHONE), gateway.send(PHONE), later, let_go);
    assert_eq!([one.status, other.status, third.status].map(|status| status.as_u16()), [400, 400, 201]);
    assert_eq!(gateway.metric(r#"sendly_gateway_limit_waits_total{result="allowed"}"#).await, 1);
    assert_eq!(gateway.metric("sendly_gateway_limit_waiting").await, 0);
    assert_eq!(gateway.codes_left(PHONE).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_waits_is_refused_for_the_window_once_those_in_flight_went_out() {
    let gateway = holding(LIMITS, 2, 201).await;
    let let_go = async {
        gateway.shows("sendly_gateway_limit_waiting", 1).await;
        gateway.upstream.let_go(2);
    };
    let later = async {
        gateway.upstream.has_seen(2).await;
        gateway.send(PHONE).await
    };
    let (one, other, third, ()) = tokio::join!(gateway.send(PHONE), gateway.send(PHONE), later, let_go);
    assert_eq!([one.status, other.status, third.status].map(|status| status.as_u16()), [201, 201, 429]);
    assert_eq!(third.json()["retryAfter"], 3600);
    assert_eq!(gateway.metric(r#"sendly_gateway_limit_waits_total{result="refused"}"#).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waited_in_vain_is_told_to_come_back_in_a_second() {
    for wait in ["0s", "50ms"] {
        let gateway = holding(&format!("limits_wait = \"{wait}\"\n{LIMITS}"), 2, 201).await;
        let later = async {
            gateway.upstream.has_seen(2).await;
            let answer = gateway.send(PHONE).await;
            gateway.upstream.let_go(2);
            answer
        };
        let (_, _, third) = tokio::join!(gateway.send(PHONE), gateway.send(PHONE), later);
        assert_eq!((third.status.as_u16(), third.error().as_str()), (429, "rate_limit_exceeded"), "{wait}");
        assert_eq!((&third.json()["retryAfter"], third.header("retry-after")), (&1.into(), Some("1")));
        assert_eq!(gateway.metric(r#"sendly_gateway_limit_waits_total{result="timed_out"}"#).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_wait_get_what_is_given_back_and_no_more() {
    let gateway = Arc::new(holding(LIMITS, 2, 400).await);
    let let_go = async {
        gateway.shows("sendly_gateway_limit_waiting", 30).await;
        gateway.upstream.let_go(2);
    };
    let crowd = async {
        gateway.upstream.has_seen(2).await;
        let mut clients = JoinSet::new();
        for _ in 0..30 {
            let gateway = Arc::clone(&gateway);
            clients.spawn(async move { gateway.send(PHONE).await });
        }
        clients.join_all().await
    };
    let (_, _, crowd, ()) = tokio::join!(gateway.send(PHONE), gateway.send(PHONE), crowd, let_go);
    assert_eq!(crowd.iter().filter(|answer| answer.status == 201).count(), 2);
    assert!(crowd.iter().all(|answer| answer.status == 201 || answer.json()["retryAfter"] == 3600));
}
