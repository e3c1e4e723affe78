//! One configuration after another: what is different, and what cannot be while the program runs.

use super::Config;

impl Config {
    /// Takes over from the configuration that is in force what cannot change while the program runs: sockets and threads are there already,
    /// and what is stored was hashed with its key. Returns the keys that this one would have had otherwise.
    pub fn keep_what_is_fixed(&mut self, in_force: &Config) -> Vec<&'static str> {
        let mut kept = Vec::new();
        keep("listen", &mut self.listen, &in_force.listen, &mut kept);
        keep("admin.listen", &mut self.admin.listen, &in_force.admin.listen, &mut kept);
        keep("workers", &mut self.workers, &in_force.workers, &mut kept);
        keep("log.format", &mut self.log.format, &in_force.log.format, &mut kept);
        keep("state.dir", &mut self.state.dir, &in_force.state.dir, &mut kept);
        keep("upstream.max_idle", &mut self.upstream.max_idle, &in_force.upstream.max_idle, &mut kept);
        if self.hash_key.is_drawn() && in_force.hash_key.is_drawn() {
            self.hash_key = in_force.hash_key.clone();
        }
        keep("hash_key", &mut self.hash_key, &in_force.hash_key, &mut kept);
        keep("ledger", &mut self.ledger, &in_force.ledger, &mut kept);
        // Another certificate is no matter; but a listener speaks TLS or does not.
        if self.tls.is_some() != in_force.tls.is_some() {
            keep("tls", &mut self.tls, &in_force.tls, &mut kept);
        }
        kept
    }

    /// The sections that are not the same in another one.
    pub fn differences(&self, other: &Config) -> Vec<&'static str> {
        let is_same = [
            ("listen", self.listen == other.listen),
            ("workers", self.workers == other.workers),
            ("hash_key", self.hash_key == other.hash_key),
            ("upstream", self.upstream == other.upstream),
            ("tls", self.tls == other.tls),
            ("clients", self.clients == other.clients),
            ("admin", self.admin == other.admin),
            ("ledger", self.ledger == other.ledger),
            ("accounts", self.accounts == other.accounts),
            ("memory", self.memory == other.memory),
            ("state", self.state == other.state),
            ("upgrade", self.upgrade == other.upgrade),
            ("retries", self.retries == other.retries),
            ("phones", self.phones == other.phones),
            ("replies", self.replies == other.replies),
            ("log", self.log == other.log),
            ("traces", self.traces == other.traces),
            ("reload", self.reload == other.reload),
            ("credits", self.tariff == other.tariff),
            ("drain_delay", self.drain_delay == other.drain_delay),
            ("drain_timeout", self.drain_timeout == other.drain_timeout),
            ("limits_wait", self.limits_wait == other.limits_wait),
            ("limits", self.limits == other.limits),
            ("exempt", self.exempt == other.exempt),
            ("throttles", self.throttles == other.throttles),
        ];
        is_same.into_iter().filter(|(_, same)| !same).map(|(section, _)| section).collect()
    }
}

fn keep<T: Clone + PartialEq>(key: &'static str, own: &mut T, in_force: &T, kept: &mut Vec<&'static str>) {
    if own != in_force {
        *own = in_force.clone();
        kept.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, "test", [].into_iter()).unwrap()
    }

    #[test]
    fn what_cannot_change_is_kept_and_told_and_the_rest_is_taken() {
        let in_force = config("hash_key = \"0123456789abcdef\"");
        let mut other = config(
            "listen = \"127.0.0.1:1\"\nworkers = 77\nhash_key = \"0123456789abcdeg\"\nlimits = []\n\
             [admin]\nlisten = \"127.0.0.1:2\"\n[log]\nformat = \"text\"\nfilter = \"warn\"\n\
             [upstream]\nurl = \"http://127.0.0.1:3\"\nmax_idle = 7\n\
             [ledger]\nbackend = \"redis\"\nurl = \"redis://127.0.0.1\"\n\
             [tls]\ncert_file = \"Cargo.toml\"\nkey_file = \"Cargo.toml\"\n",
        );
        let all = ["listen", "admin.listen", "workers", "log.format", "upstream.max_idle", "hash_key", "ledger", "tls"];
        assert_eq!(other.keep_what_is_fixed(&in_force), all);
        assert_eq!(other.differences(&in_force), ["upstream", "log", "limits"]);
        assert_eq!(other.keep_what_is_fixed(&in_force), [""; 0]);
    }

    #[test]
    fn the_folder_of_the_state_is_kept() {
        let mut other = config("state.dir = \"elsewhere\"");
        assert_eq!(other.keep_what_is_fixed(&config("state.dir = \"here\"")), ["state.dir"]);
        assert_eq!(other.state.dir.as_deref(), Some(std::path::Path::new("here")));
    }

    #[test]
    fn a_key_that_each_start_draws_is_no_change() {
        let in_force = config("");
        let mut other = config("");
        assert_eq!((other.keep_what_is_fixed(&in_force), other.differences(&in_force)), (vec![], vec![]));
        let mut given = config("hash_key = \"0123456789abcdef\"");
        assert_eq!(given.keep_what_is_fixed(&in_force), ["hash_key"]);
        assert_eq!(config("").keep_what_is_fixed(&config("hash_key = \"0123456789abcdef\"")), ["hash_key"]);
    }

    #[test]
    fn each_section_is_told_where_it_differs() {
        let in_force = config("");
        for (section, text) in [
            ("clients", "clients.keep_alive = \"9s\""),
            ("accounts", "accounts.max_failed = 9"),
            ("memory", "memory.max_keys = 9"),
            ("upgrade", "upgrade.socket = \"upgrade.sock\""),
            ("retries", "retries.unknown = \"9s\""),
            ("replies", "replies.ratelimit_headers = false"),
            ("traces", "traces.sample = 0.5"),
            ("reload", "reload.watch = false"),
            ("credits", "credits.tier1.credits = 9"),
            ("drain_delay", "drain_delay = \"5s\""),
            ("drain_timeout", "drain_timeout = \"90s\""),
            ("limits_wait", "limits_wait = \"0s\""),
            ("admin", "admin.token = \"0123456789abcdef\""),
            ("exempt", "exempt = [\"+15550100001\"]"),
            ("throttles", "[[throttles]]\nname = \"a\"\nper = \"account\"\nrate = \"1/s\""),
        ] {
            let mut other = config(text);
            assert_eq!(other.keep_what_is_fixed(&in_force), [""; 0], "{section} may change");
            assert_eq!(other.differences(&in_force), [section]);
        }
    }
}
