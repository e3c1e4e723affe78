//! The access log: a line for each request, which no request waits for.
//!
//! A request puts its line together by itself, without allocating, and copies it behind those of the others in one shared buffer. A
//! thread of the log's own writes that buffer out: once it holds `BATCH`, or `LINGER` after its first line came. While there is no
//! line it sleeps. If what it writes is not read, the buffer grows to `ROOM`; lines that find no room are dropped, and counted.
//!
//! One buffer and not one per worker: lines stay in their order, and its lock is held for a copy of some 300 bytes only.

mod line;
mod trace;

use std::io::{self, IsTerminal, Write};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::config::{Log, LogFormat};
pub use line::Entry;
use line::{Form, Line, Stamp};
pub use trace::TraceId;

/// What is worth a system call, in bytes.
const BATCH: usize = 64 << 10;

/// What waits to be written at most, in bytes: at 30 thousand requests a second, a tenth of a second.
const ROOM: usize = 1 << 20;

/// How long a line waits for others, to be written with them.
const LINGER: Duration = Duration::from_millis(80);

/// How long the end of the process waits for a reader of the last lines.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module's documentation. Dropping it ends its thread.
#[derive(Debug)]
pub struct AccessLog {
    form: Form,
    is_on: AtomicBool,
    /// There from the first moment that it was on.
    lines: OnceLock<Arc<Lines>>,
}

/// What requests and the thread that writes share.
#[derive(Debug, Default)]
struct Lines {
    pending: Mutex<Pending>,
    /// Tells the thread that there is a line, or enough of them, or that this is the end.
    wake: Condvar,
    /// Tells who waits for the end.
    ended: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Pending {
    /// Whole lines.
    bytes: Vec<u8>,
    stamp: Stamp,
    /// No more are taken.
    is_closed: bool,
    /// All that were taken are written.
    has_ended: bool,
}

impl AccessLog {
    /// The log that a configuration asks for, on standard error: none if `log.access` is off, or if the log's filter does not let
    /// `access` through at level `info`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(log: &Log) -> Result<Self, String> {
        let form = match log.format {
            LogFormat::Json => Form::Json,
            LogFormat::Text => Form::Text { colours: io::stderr().is_terminal() },
        };
        let access = Self { form, is_on: AtomicBool::new(false), lines: OnceLock::new() };
        access.switch(log)?;
        Ok(access)
    }

    /// Switches it on or off, as another configuration asks, and the filter as it is now. Its form stays.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn switch(&self, log: &Log) -> Result<(), String> {
        let is_on = log.access && tracing::enabled!(target: "access", tracing::Level::INFO);
        if is_on && self.lines.get().is_none() {
            // `Stderr` is locked for all of a `write_all`, here and where the ordinary log writes: no line is put into another.
            self.write_to(io::stderr()).map_err(|error| format!("the access log: {error}"))?;
        }
        self.is_on.store(is_on, Ordering::Relaxed);
        Ok(())
    }

    fn write_to(&self, sink: impl Write + Send + 'static) -> io::Result<()> {
        let lines = Arc::new(Lines::default());
        let writing = Arc::clone(&lines);
        thread::Builder::new().name("access log".to_owned()).spawn(move || writing.write_out(sink))?;
        if let Err(spare) = self.lines.set(lines) {
            // Another was faster.
            drop(spare.close());
        }
        Ok(())
    }

    /// Whether there is one.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Tells of a request. It never waits for a reader.
    pub fn tell(&self, entry: &Entry<'_>) {
        let (form, Some(lines)) = (self.form, self.lines.get()) else { return };
        let rest = Line::of(form, entry);
        let mut pending = lines.pending.lock();
        let before = pending.bytes.len();
        let Some(rest) = rest.whole().filter(|_| before < ROOM && !pending.is_closed) else {
            lines.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let Pending { bytes, stamp, .. } = &mut *pending;
        bytes.extend_from_slice(form.before_stamp());
        bytes.extend_from_slice(stamp.of(entry.at));
        bytes.extend_from_slice(rest);
        let after = bytes.len();
        drop(pending);
        if before == 0 || (before < BATCH && after >= BATCH) {
            lines.wake.notify_one();
        }
    }

    /// How many lines were dropped so far: they found no room, or could not be written.
    pub fn dropped(&self) -> u64 {
        self.lines.get().map_or(0, |lines| lines.dropped.load(Ordering::Relaxed))
    }

    /// Takes no more lines, and waits until those it has are written, but no longer than a second.
    pub fn close(&self) {
        let Some(lines) = self.lines.get() else { return };
        let mut pending = lines.close();
        lines.ended.wait_while_for(&mut pending, |pending| !pending.has_ended, PATIENCE);
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        if let Some(lines) = self.lines.get() {
            drop(lines.close());
        }
    }
}

impl Lines {
    /// Takes no more. Its thread writes what it has, and ends.
    fn close(&self) -> MutexGuard<'_, Pending> {
        let mut pending = self.pending.lock();
        pending.is_closed = true;
        self.wake.notify_one();
        pending
    }

    /// What the thread does, until the log is closed.
    fn write_out(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        let (mut told, mut is_spell) = (0, false);
        loop {
            let mut pending = self.pending.lock();
            self.wake.wait_while(&mut pending, |pending| pending.bytes.is_empty() && !pending.is_closed);
            self.wake.wait_while_for(&mut pending, |pending| pending.bytes.len() < BATCH && !pending.is_closed, LINGER);
            mem::swap(&mut batch, &mut pending.bytes);
            let is_last = pending.is_closed;
            drop(pending);

            if sink.write_all(&batch).and_then(|()| sink.flush()).is_err() {
                let lost = batch.iter().filter(|byte| **byte == b'\n').count();
                self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
            }
            batch.clear();

            // One warning until a batch comes through without a loss. It is said here, where nobody waits for it.
            let dropped = self.dropped.load(Ordering::Relaxed);
            let is_losing = dropped > told;
            if is_losing && !is_spell {
                tracing::warn!(dropped, "lines of the access log are dropped: standard error does not take them");
            }
            (told, is_spell) = (dropped, is_losing);
            if is_last {
                break;
            }
        }
        self.pending.lock().has_ended = true;
        self.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::mpsc;

    use super::*;
    use crate::clock::Moment;
    use crate::metrics::Outcome;
    use crate::sendly::Operation;

    /// A place to write that takes nothing until it is let, once for each time.
    struct Sink {
        written: Arc<Mutex<Vec<u8>>>,
        began: mpsc::Sender<()>,
        may: mpsc::Receiver<()>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.began.send(()).map_err(io::Error::other)?;
            self.may.recv().map_err(io::Error::other)?;
            self.written.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log_to(sink: Sink) -> AccessLog {
        let log = AccessLog { form: Form::Json, is_on: AtomicBool::new(true), lines: OnceLock::new() };
        log.write_to(sink).unwrap();
        log
    }

    fn tell(log: &AccessLog, bytes: usize) {
        log.tell(&Entry {
            at: Moment::from_micros(1_795_424_400_123_999),
            method: "GET",
            operation: Operation::Other,
            outcome: Outcome::Passed,
            status: 200,
            phone: None,
            account: None,
            refused_by: None,
            client: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            trace: None,
            took: Duration::from_micros(1500),
            bytes,
        });
    }

    /// The `bytes` of each line.
    fn told(written: &Mutex<Vec<u8>>) -> Vec<u64> {
        let text = String::from_utf8(written.lock().clone()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["bytes"].as_u64().unwrap())
            .collect()
    }

    #[test]
    fn while_nothing_is_read_nobody_waits_what_is_kept_is_bounded_and_the_rest_is_counted() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let ((began, begun), (let_it, may)) = (mpsc::channel(), mpsc::channel());
        let log = log_to(Sink { written: Arc::clone(&written), began, may });
        tell(&log, 0);
        begun.recv().unwrap();
        let mut count = 1;
        while log.dropped() == 0 {
            tell(&log, count);
            count += 1;
        }
        assert!(count > ROOM / 300 && count < ROOM / 100, "{count} lines fill it");
        assert_eq!(log.dropped(), 1);
        let_it.send(()).unwrap();
        begun.recv().unwrap();
        tell(&log, count);
        let_it.send(()).unwrap();
        let_it.send(()).unwrap();
        log.close();
        let kept: Vec<u64> = (0..count as u64 - 1).chain([count as u64]).collect();
        assert_eq!(told(&written), kept, "in their order, and all but the one that was dropped");
        tell(&log, 0);
        assert_eq!(log.dropped(), 2, "nobody writes any more");
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let ((began, _begun), (let_it, may)) = (mpsc::channel(), mpsc::channel());
        let log = log_to(Sink { written: Arc::default(), began, may });
        drop(let_it);
        (0..3).for_each(|nth| tell(&log, nth));
        log.close();
        assert_eq!(log.dropped(), 3);
    }

    #[test]
    fn the_lines_of_many_threads_are_whole_and_each_is_there_once() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let ((began, _begun), (let_it, may)) = (mpsc::channel(), mpsc::channel());
        let log = log_to(Sink { written: Arc::clone(&written), began, may });
        (0..1000).for_each(|_| let_it.send(()).unwrap());
        thread::scope(|scope| {
            for worker in 0..4 {
                let log = &log;
                scope.spawn(move || (0..500).for_each(|nth| tell(log, worker * 500 + nth)));
            }
        });
        log.close();
        let mut all = told(&written);
        for worker in 0..4 {
            let own: Vec<u64> = all.iter().copied().filter(|nth| nth / 500 == worker).collect();
            assert!(own.is_sorted(), "each thread's are in their order");
        }
        all.sort_unstable();
        assert_eq!(all, (0..2000).collect::<Vec<u64>>());
    }
}
