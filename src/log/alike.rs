//! Lines that are alike come once a second. What was left out meanwhile is told with the next one, as `suppressed`.
//!
//! When Sendly is down, every request has the same warning to say. Alike are warnings and errors from the same place in the gateway that say
//! the same; what other crates say, which may quote a request, is alike if its place is. Different mistakes all come at once.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::{self, Write};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::clock::{Clock, Moment};

/// How long a line is followed by none that is alike.
const PAUSE: Duration = Duration::from_secs(1);

/// Kinds of lines that are told apart. Beyond it those that came longest ago are forgotten, or all others are alike.
const MOST: usize = 256;

/// What the process says of its own life (a hand-over that failed, a reload that was refused) answers an operator: it always comes.
const OF_THE_PROCESS: &str = "sendly_gateway::cli";

thread_local! {
    /// How many lines were left out before the one that is being written.
    static SUPPRESSED: Cell<u64> = const { Cell::new(0) };
}

/// See the module's documentation.
pub(crate) struct Alike {
    clock: Clock,
    kinds: Mutex<HashMap<u64, Similar>>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Similar {
    last: Moment,
    suppressed: u64,
}

impl Alike {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, kinds: Mutex::default(), hasher: RandomState::default() }
    }

    /// Whether a line of this kind may come now; and how many were left out since the last one.
    fn take(&self, kind: u64) -> Option<u64> {
        let now = self.clock.now();
        let mut kinds = self.kinds.lock();
        if kinds.len() >= MOST && !kinds.contains_key(&kind) {
            kinds.retain(|_, kind| now.since(kind.last) < PAUSE);
        }
        let kind = if kinds.len() >= MOST && !kinds.contains_key(&kind) { 0 } else { kind };
        match kinds.get_mut(&kind) {
            Some(known) if now.since(known.last) < PAUSE => {
                known.suppressed += 1;
                None
            }
            known => {
                let suppressed = known.map_or(0, |known| known.suppressed);
                kinds.insert(kind, Similar { last: now, suppressed: 0 });
                Some(suppressed)
            }
        }
    }
}

/// How many lines were left out before the one that is being written on this thread.
pub(crate) fn suppressed() -> u64 {
    SUPPRESSED.take()
}

impl<S: Subscriber> Layer<S> for Alike {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let line = event.metadata();
        if *line.level() > Level::WARN || line.target().starts_with(OF_THE_PROCESS) {
            return true;
        }
        let mut hasher = self.hasher.build_hasher();
        hasher.write(line.target().as_bytes());
        hasher.write_u32(line.line().unwrap_or_default());
        if line.target().starts_with("sendly_gateway") {
            event.record(&mut Said(&mut hasher));
        }
        let taken = self.take(hasher.finish());
        SUPPRESSED.set(taken.unwrap_or_default());
        taken.is_some()
    }
}

/// Hashes what a line says.
struct Said<'h, H>(&'h mut H);

impl<H: Hasher> Visit for Said<'_, H> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.write(field.name().as_bytes());
        // To hash cannot fail.
        let _ = write!(self, "{value:?}");
    }
}

impl<H: Hasher> Write for Said<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::clock::ManualClock;
    use crate::config::LogFormat;
    use crate::log::end_line;

    /// Takes lines as the log does.
    #[derive(Clone)]
    struct Written(Arc<Mutex<Vec<u8>>>, LogFormat);

    impl std::io::Write for Written {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            let mut written = self.0.lock();
            written.extend_from_slice(line);
            end_line(&mut written, self.1, suppressed());
            Ok(line.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines that come of this.
    fn lines(format: LogFormat, log: impl FnOnce(&ManualClock)) -> Vec<String> {
        let clock = ManualClock::new(Moment::from_micros(1_800_000_000_000_000));
        let written = Written(Arc::default(), format);
        let (writer, layer) = (written.clone(), tracing_subscriber::fmt::layer().without_time());
        let layer = layer.with_writer(move || writer.clone());
        let layer = match format {
            LogFormat::Json => layer.json().flatten_event(true).boxed(),
            LogFormat::Text => layer.with_ansi(false).boxed(),
        };
        let heard = tracing_subscriber::registry().with(Alike::new(clock.clone().into())).with(layer);
        tracing::subscriber::with_default(heard, || log(&clock));
        let written = written.0.lock();
        String::from_utf8(written.clone()).unwrap().lines().map(str::to_owned).collect()
    }

    fn unreachable(error: &str) {
        tracing::warn!(error, "Sendly could not be reached");
    }

    #[test]
    fn lines_that_are_alike_come_once_a_second_and_tell_how_many_were_left_out() {
        let burst = |clock: &ManualClock| {
            (0..1600).for_each(|_| unreachable("refused"));
            clock.advance(Duration::from_millis(999));
            unreachable("refused");
            clock.advance(Duration::from_millis(1));
            unreachable("refused");
            clock.advance(Duration::from_secs(1));
            unreachable("refused");
        };
        let json: Vec<serde_json::Value> =
            lines(LogFormat::Json, burst).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> = json.iter().map(|line| line["suppressed"].as_u64()).collect();
        assert_eq!(told, [None, Some(1600), None]);
        assert!(json.iter().all(|line| line["message"] == "Sendly could not be reached" && line["error"] == "refused"));
        let text = lines(LogFormat::Text, burst);
        assert_eq!(text.len(), 3);
        assert!(text[1].ends_with(" suppressed=1600") && !text[0].contains("suppressed"), "{text:?}");
    }

    #[test]
    fn lines_that_say_something_else_all_come() {
        let all = lines(LogFormat::Json, |_| {
            for mistake in ["one", "two", "three"] {
                tracing::error!(mistake, "the configuration is not taken");
                unreachable(mistake);
            }
            (0..20).for_each(|_| tracing::info!("a code went out"));
        });
        assert_eq!(all.len(), 26);
    }

    #[test]
    fn what_the_process_says_of_its_own_life_always_comes() {
        let all = lines(LogFormat::Json, |_| {
            (0..3).for_each(|_| tracing::error!(target: "sendly_gateway::cli::run", "nobody has taken over"));
        });
        assert_eq!(all.len(), 3, "{all:?}");
    }

    #[test]
    fn what_other_crates_say_is_alike_by_its_place() {
        let all = lines(LogFormat::Text, |_| {
            (0..50).for_each(|nth| tracing::error!(target: "pingora_proxy", nth, "Fail to proxy"));
        });
        assert_eq!(all.len(), 1, "{all:?}");
    }

    #[test]
    fn no_more_kinds_are_told_apart_than_there_is_room_for() {
        let clock = ManualClock::new(Moment::from_micros(1_800_000_000_000_000));
        let alike = Alike::new(clock.clone().into());
        let came = (1..=10_000).filter(|kind| alike.take(*kind).is_some()).count();
        assert_eq!(came, MOST + 1, "and one for all others");
        assert!(alike.kinds.lock().len() <= MOST + 1);
        clock.advance(PAUSE);
        assert!((20_000..20_100).all(|kind| alike.take(kind).is_some()), "those of a second ago make room");
    }
}
