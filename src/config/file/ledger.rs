//! `[ledger]`: where codes are counted, and how Redis is reached.

use percent_encoding::percent_decode_str;

use super::duration::{millis, secs};
use super::mistake::Mistakes;
use super::origin::parse_host_and_port;
use super::parsers::{count, duration, one_of, passphrase};
use super::raw::Given;
use super::section::Section;
use crate::config::ledger::{Ledger, Login, Redis, RedisUrl, Topology};
use crate::policy::OnOutage;
use crate::policy::subject::HashKey;

/// Where Redis listens unless something else is said.
const PORT: u16 = 6379;

/// The longest that a decision may wait for Redis. A client waits for it too.
const MAX_TIMEOUT: std::time::Duration = secs(5);

/// What the section says; and the hash key that stands in it, if one does. `shared` is the one above all sections.
pub(super) fn ledger(keys: &mut Section<'_, '_>, shared: Option<&HashKey>) -> (Ledger, Option<HashKey>) {
    let is_redis = keys.get("backend", false, one_of(&[("memory", false), ("redis", true)]));
    let url = keys.secret("url", "url_file", url);
    let topology = keys.get(
        "topology",
        Topology::Single,
        one_of(&[("single", Topology::Single), ("sentinel", Topology::Sentinel), ("cluster", Topology::Cluster)]),
    );
    let master = keys.get("master", "mymaster".to_owned(), word);
    let sentinel_login = Login {
        user: keys.optional("sentinel_user", name_or_password),
        password: keys.secret("sentinel_password", "sentinel_password_file", name_or_password),
    };
    let ca_file = keys.file("ca_file");
    let own = keys.secret("hash_key", "hash_key_file", passphrase).map(|text| HashKey::from_passphrase(&text));
    let prefix = keys.get("prefix", "sendly".to_owned(), word);
    let connections = keys.get("connections", 2, count(1..=64));
    let connect_timeout = keys.get("connect_timeout", secs(1), duration(millis(1)..=secs(29)));
    let timeout = keys.get("timeout", millis(50), duration(millis(1)..=MAX_TIMEOUT));
    let on_outage = keys.get(
        "on_outage",
        OnOutage::Local,
        one_of(&[("local", OnOutage::Local), ("refuse", OnOutage::Refuse), ("allow", OnOutage::Allow)]),
    );
    let max_backlog = keys.get("max_backlog", 100_000, count(1..=100_000_000));

    keys.rule(!is_redis || url.is_some(), &["url", "url_file", "backend"], "a url, with backend = \"redis\"");
    keys.rule(
        url.as_ref().is_none_or(|url| url.tls) || ca_file.is_none(),
        &["ca_file"],
        "no ca_file, or a url that is rediss",
    );
    keys.rule(
        topology != Topology::Cluster || url.as_ref().is_none_or(|url| url.database == 0),
        &["topology"],
        "a url without a database, as a cluster has only one",
    );
    keys.rule(
        topology != Topology::Single || url.as_ref().is_none_or(|url| url.nodes.len() == 1),
        &["topology"],
        "\"sentinel\" or \"cluster\", or a url of one host",
    );
    let hash_key = own.clone().or_else(|| shared.cloned());
    keys.rule(
        !is_redis || hash_key.is_some(),
        &["hash_key", "hash_key_file", "backend"],
        "a hash_key, here or above all sections: one that all gateways have",
    );
    let redis = url.zip(hash_key).filter(|_| is_redis).map(|(url, hash_key)| Redis { url, hash_key });
    let ledger = Ledger {
        redis,
        topology,
        master,
        sentinel_login,
        ca_file,
        prefix,
        connections,
        connect_timeout,
        timeout,
        on_outage,
        max_backlog,
    };
    (ledger, own)
}

/// What may stand in the name of a key, and needs no escape in `redis-cli`.
fn word(given: &Given<'_>) -> Result<String, Mistakes> {
    let fits = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
    };
    let word = given.text().filter(fits).map(str::to_owned);
    word.ok_or_else(|| given.expected("1 to 64 letters, digits and any of - _ . :"))
}

fn name_or_password(given: &Given<'_>) -> Result<String, Mistakes> {
    let text = given.text().filter(|text| (1..=1024).contains(&text.len())).map(str::to_owned);
    text.ok_or_else(|| given.expected("1 to 1024 bytes"))
}

fn url(given: &Given<'_>) -> Result<RedisUrl, Mistakes> {
    const EXPECTED: &str =
        r#"a URL such as "rediss://user:password@host:6379/0" (redis or rediss; hosts separated by commas)"#;
    given.text().and_then(parse).ok_or_else(|| given.expected(EXPECTED))
}

fn parse(url: &str) -> Option<RedisUrl> {
    let (scheme, rest) = url.split_once("://")?;
    let tls = match scheme {
        "redis" => false,
        "rediss" => true,
        _ => return None,
    };
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (Some(login), rest),
        None => (None, rest),
    };
    let (user, password) = match login.map(|login| login.split_once(':')) {
        Some(Some((user, password))) => (Some(decoded(user)?), Some(decoded(password)?)),
        // As `redis-cli` reads it: what stands alone is a user without a password, and there is none such.
        Some(None) => return None,
        None => (None, None),
    };
    let (hosts, database) = match rest.split_once('/') {
        Some((hosts, "")) => (hosts, 0),
        Some((hosts, database)) if database.bytes().all(|byte| byte.is_ascii_digit()) => {
            (hosts, database.parse().ok()?)
        }
        Some(_) => return None,
        None => (rest, 0),
    };
    let nodes = hosts.split(',').map(|host| parse_host_and_port(host, PORT)).collect::<Option<Vec<_>>>()?;
    let user = user.filter(|user| !user.is_empty());
    Some(RedisUrl { tls, user, password: password.filter(|password| !password.is_empty()), nodes, database })
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(host: &str, port: u16) -> (String, u16) {
        (host.to_owned(), port)
    }

    #[test]
    fn a_url_tells_hosts_a_login_and_a_database() {
        let plain = parse("redis://127.0.0.1").unwrap();
        assert_eq!((plain.tls, &plain.user, &plain.password, plain.database), (false, &None, &None, 0));
        assert_eq!(plain.nodes, [node("127.0.0.1", 6379)]);
        let full = parse("rediss://gate%40way:p%3Aw%2F1@redis.internal:6380/7").unwrap();
        assert_eq!((full.tls, full.user.as_deref(), full.password.as_deref()), (true, Some("gate@way"), Some("p:w/1")));
        assert_eq!((full.nodes, full.database), (vec![node("redis.internal", 6380)], 7));
        let password_alone = parse("redis://:secret@[::1]:1/").unwrap();
        assert_eq!((password_alone.user, password_alone.password.as_deref()), (None, Some("secret")));
        assert_eq!(password_alone.nodes, [node("::1", 1)]);
        let many = parse("redis://a,b:26379,[::1]").unwrap();
        assert_eq!(many.nodes, [node("a", 6379), node("b", 26379), node("::1", 6379)]);
    }

    #[test]
    fn what_is_none_is_refused_and_what_is_one_prints_without_its_password() {
        for url in [
            "",
            "127.0.0.1:6379",
            "http://127.0.0.1",
            "redis://",
            "redis://user@host",
            "redis://host:0",
            "redis://host/db",
            "redis://host/1/2",
            "redis://host/-1",
            "redis://a,,b",
            "redis://host?db=1",
            "redis://:%ff@host",
        ] {
            assert_eq!(parse(url), None, "{url:?}");
        }
        assert!(!format!("{:?}", parse("redis://me:secret@host")).contains("secret"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(rediss?://)?.*") {
            let _ = parse(&text);
        }
    }
}
