//! The lines of the log on their way to standard error, which nobody waits for.
//!
//! Whoever has a line copies it behind those of the others in one shared buffer, and a thread of the log's own writes that out. While
//! there is no line it sleeps. If what it writes is not read, the buffer grows to its bound; lines that find no room are dropped, and
//! counted.
//!
//! One buffer and not one per worker or per kind of line: lines stay in their order, and its lock is held for a copy of some 300 bytes
//! only.

use std::io::{self, Write};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::timestamp::Stamp;

/// What is worth a system call, in bytes.
const BATCH: usize = 64 << 10;

/// How long the line of a request waits for others, to be written with them.
const LINGER: Duration = Duration::from_millis(80);

/// How long the end of the process waits for a reader of the last lines.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A request: a line of the access log. It may wait a moment for others.
    Request,
    /// Anything else. It is written as soon as it can be.
    Gateway,
}

impl About {
    const ALL: [About; 2] = [About::Request, About::Gateway];

    /// How much may wait to be written before such a line, in bytes. At 30 thousand requests a second, those have a tenth of a second;
    /// a flood of them leaves room for warnings.
    const fn room(self) -> usize {
        match self {
            About::Request => 1 << 20,
            About::Gateway => (1 << 20) + (256 << 10),
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Mutex<Pending>,
    /// Tells the thread that there is a line, or enough of them, or that this is the end.
    wake: Condvar,
    /// Tells who waits for the end.
    ended: Condvar,
    /// By what they were about.
    dropped: [AtomicU64; About::ALL.len()],
}

#[derive(Debug, Default)]
struct Pending {
    /// Whole lines.
    bytes: Vec<u8>,
    /// How many, by what they are about.
    many: [u64; About::ALL.len()],
    /// One of them shall not wait for others.
    is_urgent: bool,
    stamp: Stamp,
    /// No more are taken.
    is_closed: bool,
    /// All that were taken are written.
    has_ended: bool,
}

impl Lines {
    /// Lines that a thread of their own writes there.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn to(sink: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        let lines = Arc::new(Self::default());
        let writing = Arc::clone(&lines);
        thread::Builder::new().name("log".to_owned()).spawn(move || writing.write_out(sink))?;
        Ok(lines)
    }

    /// Takes a line, which `write` puts behind the others, its line feed included. It never waits for a reader. Returns whether there
    /// was room; if not, it is dropped.
    pub fn add(&self, about: About, write: impl FnOnce(&mut Vec<u8>, &mut Stamp)) -> bool {
        let mut pending = self.pending.lock();
        let before = pending.bytes.len();
        if before >= about.room() || pending.is_closed {
            drop(pending);
            self.lose(about, 1);
            return false;
        }
        let Pending { bytes, many, is_urgent, stamp, .. } = &mut *pending;
        write(bytes, stamp);
        if let Some(many) = many.get_mut(about as usize) {
            *many += 1;
        }
        let hurries = about == About::Gateway && !*is_urgent;
        *is_urgent |= hurries;
        let after = bytes.len();
        drop(pending);
        if before == 0 || hurries || (before < BATCH && after >= BATCH) {
            self.wake.notify_one();
        }
        true
    }

    /// So many lines about this will never be written.
    pub fn lose(&self, about: About, many: u64) {
        if let Some(dropped) = self.dropped.get(about as usize) {
            dropped.fetch_add(many, Ordering::Relaxed);
        }
    }

    /// How many lines about this were dropped so far: they found no room, or could not be written.
    pub fn dropped(&self, about: About) -> u64 {
        self.dropped.get(about as usize).map_or(0, |dropped| dropped.load(Ordering::Relaxed))
    }

    /// Takes no more lines, and waits until those it has are written, but no longer than a second.
    pub(crate) fn close(&self) {
        let mut pending = self.end();
        self.ended.wait_while_for(&mut pending, |pending| !pending.has_ended, PATIENCE);
    }

    /// Whether it takes no more.
    pub(crate) fn is_closed(&self) -> bool {
        self.pending.lock().is_closed
    }

    /// Takes no more. Its thread writes what it has, and ends.
    fn end(&self) -> MutexGuard<'_, Pending> {
        let mut pending = self.pending.lock();
        pending.is_closed = true;
        self.wake.notify_one();
        pending
    }

    /// What the thread does, until they are closed.
    fn write_out(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        let (mut told, mut is_spell) = ([0; About::ALL.len()], false);
        loop {
            let mut pending = self.pending.lock();
            self.wake.wait_while(&mut pending, |pending| pending.bytes.is_empty() && !pending.is_closed);
            let may_linger =
                |pending: &mut Pending| pending.bytes.len() < BATCH && !pending.is_urgent && !pending.is_closed;
            self.wake.wait_while_for(&mut pending, may_linger, LINGER);
            mem::swap(&mut batch, &mut pending.bytes);
            let many = mem::take(&mut pending.many);
            pending.is_urgent = false;
            let is_last = pending.is_closed;
            drop(pending);

            // One warning until nothing was lost from one batch to the next. Here it finds room.
            let dropped = About::ALL.map(|about| self.dropped(about));
            let is_losing = dropped != told;
            if is_losing && !is_spell {
                let [of_requests, others] = dropped;
                tracing::warn!(of_requests, others, "lines of the log are dropped: standard error does not take them");
            }
            (told, is_spell) = (dropped, is_losing);

            if sink.write_all(&batch).and_then(|()| sink.flush()).is_err() {
                About::ALL.into_iter().zip(many).for_each(|(about, many)| self.lose(about, many));
            }
            batch.clear();
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
    use std::sync::mpsc;

    use super::*;

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

    /// A line of 300 bytes.
    fn add(lines: &Lines, about: About, number: usize) {
        lines.add(about, |bytes, _| bytes.extend_from_slice(format!("{number:0299}\n").as_bytes()));
    }

    /// The number of each line.
    fn told(written: &Mutex<Vec<u8>>) -> Vec<usize> {
        let text = String::from_utf8(written.lock().clone()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    #[test]
    fn while_nothing_is_read_nobody_waits_what_is_kept_is_bounded_and_the_rest_is_counted() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let ((began, begun), (let_it, may)) = (mpsc::channel(), mpsc::channel());
        let lines = Lines::to(Sink { written: Arc::clone(&written), began, may }).unwrap();
        add(&lines, About::Request, 0);
        begun.recv().unwrap();
        let mut kept = vec![0];
        for about in About::ALL {
            let first = kept.len();
            while lines.dropped(about) == 0 {
                kept.push(kept.len());
                add(&lines, about, kept[kept.len() - 1]);
            }
            let lost = kept.pop().unwrap();
            let bytes = (lost - first) * 300;
            assert!(bytes > about.room() - 300 - first * 300, "{bytes} fill it");
            assert!(bytes < about.room() + 300, "{bytes} fill it");
            // Its number is the next one's.
        }
        assert!(kept.len() * 300 > (1 << 20) + (255 << 10), "there is room for warnings behind requests");
        assert_eq!(About::ALL.map(|about| lines.dropped(about)), [1, 1]);
        let_it.send(()).unwrap();
        begun.recv().unwrap();
        add(&lines, About::Request, 1_000_000);
        kept.push(1_000_000);
        (0..3).for_each(|_| let_it.send(()).unwrap());
        lines.close();
        assert_eq!(told(&written), kept, "in their order, and all but those that were dropped");
        add(&lines, About::Gateway, 0);
        assert_eq!(lines.dropped(About::Gateway), 2, "nobody writes any more");
    }

    #[test]
    fn what_cannot_be_written_is_counted_as_what_it_is() {
        let ((began, _begun), (let_it, may)) = (mpsc::channel(), mpsc::channel());
        let lines = Lines::to(Sink { written: Arc::default(), began, may }).unwrap();
        drop(let_it);
        (0..3).for_each(|nth| add(&lines, About::Request, nth));
        add(&lines, About::Gateway, 3);
        lines.close();
        assert_eq!(About::ALL.map(|about| lines.dropped(about)), [3, 1]);
    }

    #[test]
    fn the_end_does_not_wait_for_ever_for_a_reader() {
        let ((began, begun), (let_it, may)) = (mpsc::channel(), mpsc::channel());
        let lines = Lines::to(Sink { written: Arc::default(), began, may }).unwrap();
        add(&lines, About::Gateway, 0);
        begun.recv().unwrap();
        lines.close();
        assert!(!lines.pending.lock().has_ended);
        drop(let_it);
    }

    #[test]
    fn the_lines_of_many_threads_are_whole_and_each_is_there_once() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let ((began, _begun), (let_it, may)) = (mpsc::channel(), mpsc::channel());
        let lines = Lines::to(Sink { written: Arc::clone(&written), began, may }).unwrap();
        (0..3000).for_each(|_| let_it.send(()).unwrap());
        thread::scope(|scope| {
            for worker in 0..4 {
                let (lines, about) = (&lines, About::ALL[worker % 2]);
                scope.spawn(move || (0..500).for_each(|nth| add(lines, about, worker * 500 + nth)));
            }
        });
        lines.close();
        let mut all = told(&written);
        for worker in 0..4 {
            let own: Vec<usize> = all.iter().copied().filter(|nth| nth / 500 == worker).collect();
            assert!(own.is_sorted(), "each thread's are in their order");
        }
        all.sort_unstable();
        assert_eq!(all, (0..2000).collect::<Vec<usize>>());
    }
}
