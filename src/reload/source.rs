//! Where the configuration comes from: a file, the environment, the command line; and what its files said when it was read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::{Config, LogFormat, Mistakes, Origin};
use crate::policy::subject::HashKey;

/// More of a file is not looked at.
const MAX_LOOKED_AT: u64 = 16 << 20;

/// How often a configuration is read again because its files changed meanwhile.
const ROUNDS: usize = 3;

/// See the module's documentation. It shows nothing of the environment: there may be a secret in it.
pub(crate) struct Source {
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    /// Where clients connect, whatever the file says.
    pub listen: Option<SocketAddr>,
    /// Whether people watch a sandbox: then lines are for people.
    pub is_sandbox: bool,
    /// Whom to ask, whatever the file says.
    pub upstream: Option<Origin>,
    key: HashKey,
}

/// A configuration that was read.
#[derive(Debug)]
pub(crate) struct Loaded<E> {
    /// It, or all that is wrong with it.
    pub config: Result<Config, E>,
    /// What its files said just before.
    pub marks: Marks,
    /// Whether they said the same afterwards.
    pub stands_still: bool,
}

/// What files say, as far as it takes to see that it is something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(BTreeMap<PathBuf, Mark>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// Something, of which this is a keyed hash.
    Says(u128),
    /// Nothing.
    Empty,
    /// It is a pipe or the like: who reads it takes what it says away.
    NoFile,
    /// It is not there, or not to be read.
    Unreadable,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Source {
    /// A configuration in this file, or that of the defaults; and what in the environment overrides it.
    pub(crate) fn new(file: Option<PathBuf>, environment: impl Iterator<Item = (String, String)>) -> Self {
        let environment = environment.collect();
        Self { file, environment, listen: None, is_sandbox: false, upstream: None, key: HashKey::random() }
    }

    /// Whether there is a file.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Reads the configuration for the first time. It waits for the disk.
    pub(crate) fn load(&self) -> Loaded<Mistakes> {
        let environment = || self.environment.iter().cloned();
        let Some(file) = &self.file else {
            let config = Config::parse("", "defaults", environment()).map(|config| self.overridden(config));
            return Loaded { config, marks: Marks::default(), stands_still: true };
        };
        let mut files = BTreeSet::from([file.clone()]);
        let mut round = 1;
        loop {
            // First looked at and then read, so that nothing that changes in between goes unseen.
            let marks = self.look(files.iter().map(PathBuf::as_path));
            let (config, read) = Config::load_with_files(file, environment());
            let config = config.map(|config| self.overridden(config));
            if marks.of(file) == Some(Mark::NoFile) {
                return Loaded { config, marks, stands_still: true };
            }
            let stands_still = read == files && self.look(files.iter().map(PathBuf::as_path)) == marks;
            if stands_still || round == ROUNDS {
                return Loaded { config, marks, stands_still };
            }
            // What it says decides which files it is made of.
            (files, round) = (read, round + 1);
        }
    }

    /// Reads it once more, where one is in force. What is empty, or cannot be read twice, is not taken for a configuration then.
    pub(super) fn load_again(&self) -> Loaded<Vec<String>> {
        let doubt = |marks: &Marks| {
            let file = self.file.as_deref()?;
            let why = match marks.of(file)? {
                Mark::Empty => {
                    "the file is empty, as if it was cut off; one that asks for the defaults has a comment in it"
                }
                Mark::NoFile => "this is no regular file, and can be read but once",
                Mark::Says(_) | Mark::Unreadable => return None,
            };
            Some(format!("{}: {why}", file.display()))
        };
        let marks = self.look(self.file.as_deref());
        if let Some(doubt) = doubt(&marks) {
            return Loaded { config: Err(vec![doubt]), marks, stands_still: true };
        }
        let Loaded { config, marks, stands_still } = self.load();
        let config = match doubt(&marks) {
            Some(doubt) => Err(vec![doubt]),
            None => config.map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect()),
        };
        Loaded { config, marks, stands_still }
    }

    /// Looks at files. It waits for the disk.
    pub(super) fn look<'f>(&self, files: impl IntoIterator<Item = &'f Path>) -> Marks {
        Marks(files.into_iter().map(|file| (file.to_owned(), self.mark(file).unwrap_or(Mark::Unreadable))).collect())
    }

    fn mark(&self, path: &Path) -> io::Result<Mark> {
        // It is opened only if it is a file: to open a pipe is to wait for somebody who writes.
        if !fs::metadata(path)?.is_file() {
            return Ok(Mark::NoFile);
        }
        let mut says = Vec::new();
        File::open(path)?.take(MAX_LOOKED_AT).read_to_end(&mut says)?;
        Ok(if says.is_empty() { Mark::Empty } else { Mark::Says(self.key.hash(b"file", [says.as_slice()])) })
    }

    fn overridden(&self, mut config: Config) -> Config {
        config.listen = self.listen.unwrap_or(config.listen);
        if self.is_sandbox {
            config.log.format = LogFormat::Text;
        }
        if let Some(upstream) = &self.upstream {
            config.upstream.origin = upstream.clone();
        }
        config
    }
}

impl Marks {
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    fn of(&self, file: &Path) -> Option<Mark> {
        self.0.get(file).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for a test's files.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("sendly-gateway-source-{test}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn source(file: &Path) -> Source {
        Source::new(Some(file.to_owned()), [].into_iter())
    }

    #[test]
    fn a_configuration_is_made_of_every_file_that_it_names_and_each_is_looked_at() {
        let folder = Folder::new("names");
        let (key, secret) = (folder.write("key", "k"), folder.write("secret", "0123456789abcdef"));
        let listen = folder.write("listen", "127.0.0.1:1");
        let file = folder.write(
            "gateway.toml",
            &format!("hash_key_file = {secret:?}\nupstream.ca_file = {key:?}\n[tls]\ncert_file = {key:?}\nkey_file = {key:?}\n"),
        );
        let variable = ("SENDLY_GATEWAY_LISTEN_FILE".to_owned(), listen.to_str().unwrap().to_owned());
        let source = Source::new(Some(file.clone()), [variable].into_iter());
        let loaded = source.load();
        assert!(loaded.config.is_ok() && loaded.stands_still);
        assert_eq!(loaded.marks.files().collect::<Vec<_>>(), [&file, &key, &listen, &secret].map(PathBuf::as_path));
        assert_eq!(source.look(loaded.marks.files()), loaded.marks, "as long as they say the same");
        for changed in [&file, &key, &listen, &secret] {
            let before = source.look(loaded.marks.files());
            fs::write(changed, "something else").unwrap();
            assert_ne!(source.look(loaded.marks.files()), before, "{changed:?}");
        }
    }

    #[test]
    fn what_a_mistaken_configuration_names_is_looked_at_too() {
        let folder = Folder::new("mistaken");
        let absent = folder.0.join("absent.pem");
        let file = folder.write("gateway.toml", &format!("[tls]\ncert_file = {absent:?}\nkey_file = {absent:?}\n"));
        let source = source(&file);
        let loaded = source.load_again();
        assert_eq!(loaded.config.unwrap_err().len(), 2);
        folder.write("absent.pem", "there it is");
        assert_ne!(source.look(loaded.marks.files()), loaded.marks);
    }

    #[test]
    fn what_is_empty_is_a_configuration_at_the_start_and_none_later() {
        let folder = Folder::new("empty");
        let source = source(&folder.write("gateway.toml", ""));
        assert!(source.load().config.is_ok());
        let mistakes = source.load_again().config.unwrap_err();
        assert!(mistakes[0].contains("gateway.toml: the file is empty"), "{mistakes:?}");
        folder.write("gateway.toml", "# the defaults\n");
        assert!(source.load_again().config.is_ok());
    }

    #[test]
    fn what_is_no_file_is_read_once() {
        let source = source(Path::new("/dev/null"));
        assert!(source.load().config.is_ok());
        assert!(source.load_again().config.unwrap_err()[0].contains("/dev/null: this is no regular file"));
    }

    #[test]
    fn the_command_line_goes_before_what_any_file_says() {
        let folder = Folder::new("overridden");
        let file = folder.write("gateway.toml", "listen = \"127.0.0.1:1\"\nlog.format = \"json\"\n");
        let origin = Origin { tls: false, host: "127.0.0.1".to_owned(), port: 3 };
        let source = Source {
            listen: "127.0.0.1:2".parse().ok(),
            is_sandbox: true,
            upstream: Some(origin.clone()),
            ..source(&file)
        };
        let config = source.load_again().config.unwrap();
        assert_eq!((config.listen.port(), config.log.format, config.upstream.origin), (2, LogFormat::Text, origin));
    }
}
