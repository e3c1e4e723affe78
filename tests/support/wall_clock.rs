//! A wall clock that a test sets while a program runs (`clock.c`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// One that is right. Its files begin with this path.
    pub(crate) fn new(path: &Path) -> Self {
        let (library, file) = (path.with_extension("so"), path.with_extension("clock"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
        let compiled = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
        assert!(compiled.expect("cc is missing: scripts/setup installs it").success());
        std::fs::write(&file, [0; 8]).unwrap();
        Self { library, file }
    }

    /// What a program has to be told that goes by it.
    pub(crate) fn variables(&self) -> [(&str, &str); 2] {
        [("LD_PRELOAD", self.library.to_str().unwrap()), ("CLOCK", self.file.to_str().unwrap())]
    }

    /// Sets it so many seconds ahead.
    pub(crate) fn set(&self, ahead: i64) {
        // It is mapped there: it must neither be cut nor replaced.
        let mut file = std::fs::OpenOptions::new().write(true).open(&self.file).unwrap();
        file.write_all(&(ahead * 1_000_000).to_ne_bytes()).unwrap();
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.library);
        let _ = std::fs::remove_file(&self.file);
    }
}
