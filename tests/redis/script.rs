//! The script itself, asked as the gateway asks it: what only a long log or a second asking shows.

use redis_rs::Value;

use crate::server::Server;

const SCRIPT: &str = include_str!("../../src/ledger/redis/ledger.lua");

const SECOND: u64 = 1_000_000;
const START: u64 = 1_800_000_000 * SECOND;
const DAY: u64 = 24 * 60 * 60 * SECOND;

struct Script {
    connection: redis_rs::aio::MultiplexedConnection,
    server: Server,
}

impl Script {
    async fn new() -> Self {
        let server = Server::start(&[]);
        let client = redis_rs::Client::open(server.url()).unwrap();
        Self { connection: client.get_multiplexed_async_connection().await.unwrap(), server }
    }

    /// Carries out a verb on one key; the answer's parts, the time left out.
    async fn ask(&mut self, verb: &str, numbers: &[u64]) -> Vec<Value> {
        let packed: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        let mut command = redis_rs::cmd("EVAL");
        command.arg(SCRIPT).arg(1).arg("key").arg(verb).arg(packed);
        let answer: Value = command.query_async(&mut self.connection).await.unwrap();
        let Value::Array(mut parts) = answer else { panic!("{answer:?}") };
        parts.remove(0);
        parts
    }

    /// Asks for a code under a limit of so many a day, which refuses or does not.
    async fn reserve(&mut self, at: u64, token: u64, max: u64, enforced: bool, again: bool) -> i64 {
        let limit = [1, max, DAY, max, DAY, 1, max, DAY, 3, 0, u64::from(enforced)];
        let numbers = [&[at, 0, token, 0, 1, 1, u64::from(again)], limit.as_slice()].concat();
        match self.ask("reserve", &numbers).await[0] {
            Value::Int(verdict) => verdict,
            ref other => panic!("{other:?}"),
        }
    }

    async fn note(&mut self, at: u64, token: u64) {
        self.ask("note", &[START + DAY, at, 0, token, 1000, DAY, 1000, DAY]).await;
    }

    async fn give_back(&mut self, at: u64, token: u64) -> i64 {
        match self.ask("back", &[START + DAY, at, token]).await[0] {
            Value::Int(found) => found,
            ref other => panic!("{other:?}"),
        }
    }

    /// The tokens of all charges, in their order.
    async fn tokens(&mut self) -> Vec<u64> {
        let parts = self.ask("look", &[START]).await;
        let Value::BulkString(bytes) = &parts[0] else { panic!("{parts:?}") };
        assert_eq!(bytes.len() % 11, 0);
        bytes.chunks(11).map(|charge| u64::from(u32::from_be_bytes(charge[7..].try_into().unwrap()))).collect()
    }
}

#[tokio::test]
async fn a_code_that_is_asked_for_twice_under_one_token_is_charged_once() {
    let mut script = Script::new().await;
    for _ in 0..3 {
        assert_eq!(script.reserve(START, 7, 1, true, true).await, 0, "it was let through");
    }
    assert_eq!(script.reserve(START, 8, 1, true, true).await, 1, "and it counts");
    assert_eq!(script.tokens().await, [7]);
}

#[tokio::test]
async fn a_long_log_is_what_a_short_one_is() {
    let mut script = Script::new().await;
    let mut expected: Vec<u64> = (1..=500).collect();
    for token in 1..=500 {
        assert_eq!(script.reserve(START + token, token, 1000, true, false).await, 0);
    }
    assert_eq!(script.tokens().await, expected);
    // From its end, its middle and its beginning; and one that is not there.
    for token in [500, 499, 250, 251, 1, 3] {
        assert_eq!(script.give_back(START + token, token).await, 1, "{token}");
        expected.retain(|other| *other != token);
        assert_eq!(script.tokens().await, expected, "after {token}");
    }
    assert_eq!(script.give_back(START + 500, 500).await, 0);
    // What is noted late stands where it belongs, once.
    for _ in 0..2 {
        script.note(START + 250, 250).await;
    }
    expected.insert(expected.iter().position(|token| *token > 250).unwrap(), 250);
    assert_eq!(script.tokens().await, expected);
    // A limit finds its charge wherever it stands, and room is where something was taken out.
    let left = expected.len() as u64;
    assert_eq!(script.reserve(START + SECOND, 900, left, true, false).await, 1);
    assert_eq!(script.reserve(START + SECOND, 900, left + 1, true, false).await, 0);
    expected.push(900);
    assert_eq!(script.tokens().await, expected);
}

#[tokio::test]
async fn a_log_that_no_limit_needs_is_trimmed_and_takes_the_memory_that_it_shows() {
    let mut script = Script::new().await;
    for token in 1..=2000 {
        // A shadow, so that it grows: one a second, of which the newest ten are needed, and those of the last two minutes.
        assert_eq!(script.reserve(START + token * SECOND, token, 10, false, false).await, 0);
    }
    let tokens = script.tokens().await;
    // Ten of each kind, for all that the script looks at before it counts; and a quarter that may go.
    assert!(tokens.len() <= (10 + 10 + 120) * 4 / 3 + 2, "{}", tokens.len());
    assert!(tokens.is_sorted() && tokens.ends_with(&[1998, 1999, 2000]));
    assert!(tokens[0] <= 2000 - 130, "what some limit needs is there");
    let used: usize = script.server.ask(&["MEMORY", "USAGE", "key"]).trim_start_matches(':').parse().unwrap();
    assert!(used < tokens.len() * 11 * 4, "{used}");
}

#[tokio::test]
async fn what_one_noted_without_a_token_and_another_with_is_one_code() {
    let mut script = Script::new().await;
    script.note(START, 0).await;
    script.note(START, 7).await;
    script.note(START, 0).await;
    assert_eq!(script.tokens().await, [7]);
    assert_eq!(script.give_back(START, 7).await, 1);
    assert_eq!(script.tokens().await, [0_u64; 0]);
    assert_eq!(script.server.ask(&["EXISTS", "key"]), ":0");
}
