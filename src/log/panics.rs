//! What a panic says. It goes the way of the log: the runtime's own way would wait for a reader of standard error.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::Write;
use std::panic;
use std::sync::Arc;
use std::thread;

use super::writer::{About, Lines};

/// Tells of each panic from now on among these lines, whatever the log's filter lets through. What is told is what Rust tells by itself,
/// with a backtrace where the environment asks for one.
pub(crate) fn tell_of(lines: Arc<Lines>) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| match lines.is_closed() {
        true => before(panic),
        false => tell(&lines, panic, &Backtrace::capture()),
    }));
}

fn tell(lines: &Lines, panic: &impl Display, backtrace: &Backtrace) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    lines.add(About::Gateway, |bytes, _| {
        // Nothing fails that is written to memory.
        let _ = writeln!(bytes, "thread '{name}' {panic}");
        if backtrace.status() == BacktraceStatus::Captured {
            let _ = writeln!(bytes, "{backtrace}");
        }
    });
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;

    use super::*;

    /// A place to write that takes nothing until it is let.
    struct Sink(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_told_of_and_waits_for_no_reader() {
        let ((let_it, may), (writes, written)) = (mpsc::channel(), mpsc::channel());
        let lines = Lines::to(Sink(may, writes)).unwrap();
        let before = panic::take_hook();
        tell_of(Arc::clone(&lines));
        let broken = thread::Builder::new().name("one".to_owned()).spawn(|| panic!("it is broken"));
        broken.unwrap().join().unwrap_err();
        panic::set_hook(before);
        let_it.send(()).unwrap();
        let said = String::from_utf8(written.recv().unwrap()).unwrap();
        assert!(said.starts_with("thread 'one' panicked at src/log/panics.rs:"), "{said}");
        assert!(said.contains("it is broken\n"), "{said}");
    }
}
