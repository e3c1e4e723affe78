//! `docs/limits.md`: its worked example is run, row by row, and its table of the defaults is the configuration's.

use std::time::Duration;

use sendly_gateway::config::Config;
use sendly_gateway::ledger::{Settlement, Verdict};
use sendly_gateway::policy::subject::{HashKey, Verification};
use sendly_gateway::policy::{Key, Kind, Obstacle, Policy, Subject};

use super::world::*;

/// The rows of the table with this heading, cell by cell.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let page = include_str!("../../docs/limits.md");
    let (_, rest) = page.split_once(heading).unwrap_or_else(|| panic!("no table {heading}"));
    let rows = rest.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

fn defaults() -> Config {
    Config::parse("", "defaults", [].into_iter()).unwrap()
}

/// How far `09:02:30` is into the story.
fn since_nine(clock: &str) -> Duration {
    let parts: Vec<u64> = clock.split(':').map(|part| part.parse().unwrap()).collect();
    Duration::from_secs(parts[0] * 3600 + parts[1] * 60 + parts[2] - 9 * 3600)
}

fn id(name: &str) -> Verification {
    HashKey::new([1; 16]).verification(name)
}

#[test]
fn the_worked_example_is_what_the_ledger_does() {
    let (ledger, policy) = (crate::ledger_in_memory(), Policy::new(defaults().limits));
    let rows = table("| at | request | Sendly answers | the client gets | counted | why |\n");
    assert!(rows.len() >= 15, "the table is not as this test reads it");
    let (mut refused, mut given_back) = (0, 0);
    for row in &rows {
        let [at, request, sendly, client, counted, _why] = row[..] else { panic!("{row:?}") };
        let now = START + since_nine(at);
        let (verb, name) = request.split_once(' ').unwrap();
        let mut subject = Subject { phone: Some(phone(0)), verification: None, account: account(0) };
        let kind = match verb {
            "send" => Kind::Send,
            "resend" => {
                // Whose it is was learned from the answer to its send.
                let known = wait(ledger.whose(id(name), now)).unwrap_or_else(|| panic!("{name} is not known"));
                (subject.phone, subject.verification) = (Some(known.phone), Some(known.root));
                Kind::Resend
            }
            _ => panic!("{request}"),
        };
        let (decision, verdict) = ask(&ledger, &policy, &subject, kind, now);
        match verdict {
            Verdict::Reserved(reservation) => {
                assert_eq!(sendly, client, "what Sendly answers is passed on: {row:?}");
                let status: u16 = sendly.parse().unwrap_or_else(|_| panic!("it is let through: {row:?}"));
                let keeps = !(300..500).contains(&status);
                wait(reservation.settle(if keeps { Settlement::Keep } else { Settlement::GiveBack }));
                given_back += u32::from(!keeps);
                if status < 300 && kind == Kind::Send {
                    wait(ledger.learn(id(name), phone(0), now));
                }
            }
            Verdict::Refused(_) => {
                let refusal = decision.refusal.unwrap();
                let Obstacle::Limit(place) = refusal.by else { panic!("{refusal:?}") };
                let by = &policy.limits()[place].name;
                let told = format!("429 `{by}`, {} s", refusal.retry_after.as_secs());
                assert_eq!((sendly, client), ("not asked", told.as_str()), "{row:?}");
                assert_eq!(refusal.retry_after.subsec_nanos(), 0, "{row:?}");
                refused += 1;
            }
            Verdict::NoRoom | Verdict::Away => panic!("it is not counted"),
        }
        let (sends, resends, _) = contents(&ledger, Key::Phone(phone(0)), now);
        let within = sends.iter().chain(&resends).filter(|charged| now.since(**charged) < MINUTE * 10).count();
        assert_eq!(counted, within.to_string(), "{row:?}");
    }
    assert!(refused >= 4 && given_back >= 3, "the example shows both");
}

#[test]
fn the_table_of_the_defaults_is_the_configuration() {
    let rows = table("| limit | per | max | window | counts |\n");
    let limits = defaults().limits;
    assert_eq!(rows.len(), limits.len());
    for (row, limit) in rows.iter().zip(&limits) {
        let window = match row[3].split_at(row[3].len() - 1) {
            (many, "h") => HOUR * many.parse().unwrap(),
            (many, "m") => MINUTE * many.parse().unwrap(),
            (many, "s") => SECOND * many.parse().unwrap(),
            _ => panic!("{row:?}"),
        };
        let counts = match (limit.counts.send, limit.counts.resend) {
            (true, true) => "sends and resends",
            (false, true) => "resends",
            _ => panic!("{limit:?}"),
        };
        let name = format!("`{}`", limit.name);
        assert_eq!(row[..3], [name.as_str(), limit.per.name(), &limit.max.to_string()]);
        assert_eq!((window, row[4]), (limit.window, counts), "{row:?}");
    }
}
