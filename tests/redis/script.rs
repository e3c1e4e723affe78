//! The script itself, asked as the gateway asks it: what only a long log or a second asking shows.

use proptest::prelude::*;
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

/// The script without its way for what is plain: all goes the long one.
fn without_its_short_way() -> String {
    let cut = SCRIPT.replace("if verb == 'reserve' then", "if false then");
    assert_ne!(cut, SCRIPT, "there is such a way");
    cut
}

impl Script {
    async fn new() -> Self {
        let server = Server::start(&[]);
        let client = redis_rs::Client::open(server.url()).unwrap();
        Self { connection: client.get_multiplexed_async_connection().await.unwrap(), server }
    }

    /// Carries out a verb on one key; the answer's parts, the time left out.
    async fn ask(&mut self, verb: &str, numbers: &[u64]) -> Vec<Value> {
        self.ask_of(SCRIPT, &["key"], verb, numbers).await
    }

    async fn ask_of(&self, script: &str, keys: &[&str], verb: &str, numbers: &[u64]) -> Vec<Value> {
        let packed: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        let mut command = redis_rs::cmd("EVAL");
        command.arg(script).arg(keys.len()).arg(keys).arg(verb).arg(packed);
        let answer: Value = command.query_async(&mut self.connection.clone()).await.unwrap();
        let Value::Array(mut parts) = answer else { panic!("{answer:?}") };
        parts.remove(0);
        parts
    }

    /// Asks for a code under a limit of so many a day, which refuses or does not.
    async fn reserve(&mut self, at: u64, token: u64, max: u64, enforced: bool, again: bool) -> i64 {
        let limit = [1, max, DAY, max, DAY, 1, max, DAY, 3, 0, u64::from(enforced)];
        let numbers = [&[at, 0, 0, token, 0, 1, 1, u64::from(again)], limit.as_slice()].concat();
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

    /// What time it is there.
    async fn time(&self) -> u64 {
        let (seconds, micros): (u64, u64) =
            redis_rs::cmd("TIME").query_async(&mut self.connection.clone()).await.unwrap();
        seconds * SECOND + micros
    }

    /// The tokens of all charges, in their order.
    async fn tokens(&mut self) -> Vec<u64> {
        self.tokens_of("key").await
    }

    async fn tokens_of(&self, key: &str) -> Vec<u64> {
        let parts = self.ask_of(SCRIPT, &[key], "look", &[START]).await;
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
async fn a_key_that_became_another_is_remembered_for_as_long_as_that_one_is() {
    let script = Script::new().await;
    let limit = [1, 5, DAY, 5, DAY, 1, 5, DAY, 3, 0, 1];
    let reserve = |at, token| [&[at, 0, 0, token, 0, 1, 1, 0], limit.as_slice()].concat();
    let absorb = [START, 5, DAY, 5, DAY, 0];
    // A name is longer than a charge.
    let keys = ["name-of-the-phone", "name-of-another", "name-of-a-third"];
    let [root, one, two] = keys;
    script.ask_of(SCRIPT, &[one], "reserve", &reserve(START, 1)).await;
    script.ask_of(SCRIPT, &[two, one], "absorb", &absorb).await;
    script.ask_of(SCRIPT, &[two], "reserve", &reserve(START, 2)).await;
    script.ask_of(SCRIPT, &[root, two], "absorb", &absorb).await;
    // In a circle that ends.
    script.ask_of(SCRIPT, &[one, root], "absorb", &absorb).await;
    assert_eq!(script.tokens_of(root).await, [0, 1, 2], "the first only says that there are others");
    let mut connection = script.connection.clone();
    let mut token = 2;
    for verb in ["", "back", "clear"] {
        // As if a day went by: what they expire by is not the clock that the script is told.
        for key in keys.iter().chain(&["name-of-the-phone:also"]) {
            let shortened: bool =
                redis_rs::cmd("PEXPIRE").arg(key).arg(60_000).query_async(&mut connection).await.unwrap();
            assert!(shortened, "{key} is there");
        }
        match verb {
            "back" => drop(script.ask_of(SCRIPT, &[one], "back", &[START, START, token]).await),
            "clear" => drop(script.ask_of(SCRIPT, &[two], "clear", &[START]).await),
            _ => {}
        }
        token += 1;
        script.ask_of(SCRIPT, &[root], "reserve", &reserve(START, token)).await;
        for key in keys {
            let left: i64 = redis_rs::cmd("PTTL").arg(key).query_async(&mut connection).await.unwrap();
            assert!(left > 86_000_000, "{key} lives as long as what was charged, after {verb}");
        }
        script.ask_of(SCRIPT, &[one], "reserve", &reserve(START, token + 100)).await;
        assert_eq!(script.tokens_of(root).await.last(), Some(&(token + 100)), "and is that key");
        script.ask_of(SCRIPT, &[two], "back", &[START, START, token + 100]).await;
    }
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
        // A shadow, so that it grows: one a second, of which the newest ten are needed, and those of the last six minutes.
        assert_eq!(script.reserve(START + token * SECOND, token, 10, false, false).await, 0);
    }
    let tokens = script.tokens().await;
    // Ten of each kind, for all that the script looks at before it counts; and a quarter that may go.
    assert!(tokens.len() <= (10 + 10 + 360) * 4 / 3 + 2, "{}", tokens.len());
    assert!(tokens.is_sorted() && tokens.ends_with(&[1998, 1999, 2000]));
    assert!(tokens[0] <= 2000 - 370, "what some limit needs is there");
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

/// The server's time, set back by so many seconds.
fn set_back(seconds: u64) -> u64 {
    (-((1_i64 << 51) + (seconds * SECOND).cast_signed())).cast_unsigned()
}

/// Whether a wait is what it is to be, to within what a busy machine takes to ask.
fn is_about(wait: u64, seconds: u64) -> bool {
    (wait / SECOND).abs_diff(seconds) <= 20
}

#[tokio::test]
async fn what_lies_in_the_future_counts_as_of_now_and_no_longer_than_its_window() {
    let mut script = Script::new().await;
    let (hour, now) = (3600 * SECOND, script.time().await);
    // Of 25 an hour: a log that is read in parts, of which five are older than the time that the clock is set back to.
    let limit = [1, 25, hour, 25, hour, 1, 25, hour, 3, 0, 1];
    let ask = async |script: &mut Script, back: u64, token: u64| {
        let parts =
            script.ask("reserve", &[&[set_back(back), 0, 0, token, 0, 1, 1, 0], limit.as_slice()].concat()).await;
        match parts[3] {
            Value::Int(fact) => fact.max(0).unsigned_abs(),
            ref other => panic!("{other:?}"),
        }
    };
    for token in 1..=25 {
        let age = if token <= 5 { 2 * 3600 - 60 } else { 60 };
        script.ask("note", &[now, now - age * SECOND + token, 0, token, 1000, DAY, 1000, DAY]).await;
    }
    // The first five are 59 minutes old then, and leave when they would have. The others leave an hour from then, and no later the
    // later it gets.
    let wait = ask(&mut script, 3600, 26).await;
    assert!(is_about(wait, 60), "{wait}");
    for token in 26..=30 {
        assert_eq!(ask(&mut script, 3600 - 90, token).await, 0);
    }
    for (back, seconds) in [(3600 - 90, 3600 - 90), (1800, 1800), (60, 60)] {
        let wait = ask(&mut script, back, 31).await;
        assert!(is_about(wait, seconds), "{wait} after {seconds}");
    }
    // One that is given back is found where it stands now.
    assert_eq!(script.ask("back", &[set_back(60), now - 60 * SECOND + 25, 25]).await, [Value::Int(1)]);
    assert_eq!(ask(&mut script, 60, 31).await, 0);
}

#[tokio::test]
async fn a_hold_lasts_for_as_long_as_sendly_said_wherever_the_clock_is_set_back_to() {
    let mut script = Script::new().await;
    let limit = [1, 5, DAY, 5, DAY, 0];
    let now = script.time().await;
    script.ask("hold", &[0, now + 900 * SECOND]).await;
    for (back, seconds) in [(0, 900), (3600, 900), (3600 - 600, 300)] {
        let parts = script.ask("reserve", &[&[set_back(back), 0, 0, 1, 0, 1, 1, 0], limit.as_slice()].concat()).await;
        let Value::Int(held) = parts[2] else { panic!("{parts:?}") };
        assert!(is_about(held.unsigned_abs(), seconds), "{held} when set back by {back}");
    }
}

/// What may come next for two keys, of which each has two limits.
#[derive(Clone, Debug)]
enum Step {
    /// A code, so much later, to the first key or to both.
    Reserve {
        later: u64,
        resend: bool,
        both: bool,
        enforced: bool,
    },
    /// The one before is asked for again.
    Again,
    /// It is given back.
    Back,
    Hold {
        longer: u64,
    },
    /// The clock is set back.
    SetBack {
        by: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let later = prop_oneof![8 => 0..5 * SECOND, 1 => 60 * SECOND..200 * SECOND];
    let reserve = (later, any::<bool>(), any::<bool>(), prop::bool::weighted(0.8))
        .prop_map(|(later, resend, both, enforced)| Step::Reserve { later, resend, both, enforced });
    prop_oneof![
        20 => reserve,
        1 => Just(Step::Again),
        2 => Just(Step::Back),
        1 => (0..20 * SECOND).prop_map(|longer| Step::Hold { longer }),
        1 => (0..20 * SECOND).prop_map(|by| Step::SetBack { by }),
    ]
}

/// Does the same both ways, each with keys of its own, and compares the answers.
async fn both_ways(script: &Script, steps: &[Step]) {
    let cut = without_its_short_way();
    script.server.ask(&["FLUSHALL"]);
    let (mut now, mut token) = (START, 0);
    for (nth, step) in steps.iter().enumerate() {
        let (verb, numbers, both) = match step {
            Step::Reserve { later, resend, both, enforced } => {
                (now, token) = (now + later, token + 1);
                let enforced = u64::from(*enforced);
                let head = [now, 0, 0, token, u64::from(*resend), 1, 1, nth as u64 % 2];
                let first =
                    [1, 5, 100 * SECOND, 4, 100 * SECOND, 2, 5, 60 * SECOND, 3, 2, enforced, 4, 100 * SECOND, 2, 1, 1];
                let second = [1, 40, 90 * SECOND, 40, 90 * SECOND, 1, 40, 90 * SECOND, 3, 30, enforced];
                ("reserve", [&head, first.as_slice(), &second].concat(), *both)
            }
            Step::Again => {
                let limit = [1, 5, 100 * SECOND, 4, 100 * SECOND, 0];
                ("reserve", [&[now, 0, 0, token, 0, 1, 1, 1], limit.as_slice()].concat(), false)
            }
            Step::Back => ("back", vec![now, now, token], true),
            Step::Hold { longer } => ("hold", vec![now, now + longer], false),
            Step::SetBack { by } => {
                now -= by;
                continue;
            }
        };
        let keys = if both { 2 } else { 1 };
        let short = script.ask_of(SCRIPT, &["{short}:1", "{short}:2"][..keys], verb, &numbers).await;
        let long = script.ask_of(&cut, &["{long}:1", "{long}:2"][..keys], verb, &numbers).await;
        assert_eq!(short.len(), long.len(), "{nth}: {step:?}");
        for parts in short.into_iter().zip(long) {
            match parts {
                // What no limit needs may be forgotten a little later.
                (Value::BulkString(short), Value::BulkString(long)) if short.ends_with(&long) => {}
                // And then it may be too much to be told.
                (Value::Nil, Value::BulkString(long)) if long.len() < 24 * 11 => {}
                (short, long) => assert_eq!(short, long, "{nth}: {step:?}"),
            }
        }
    }
}

#[test]
fn a_code_that_goes_the_short_way_is_judged_as_one_that_goes_the_long_way() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = runtime.block_on(Script::new());
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = prop::test_runner::TestRunner::new(config);
    let ran = runner.run(&prop::collection::vec(step(), 1..150), |steps| {
        runtime.block_on(both_ways(&script, &steps));
        Ok(())
    });
    ran.unwrap();
}
