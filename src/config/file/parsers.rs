//! What keys take. Each kind reads a value, or says what it expected instead.

use std::fmt::Display;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU128;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::duration::{parse, text};
use super::environment::READABLE_FILE;
use super::mistake::Mistakes;
use super::raw::Given;
use crate::config::AddressSource;
use crate::phone::Phone;
use crate::policy::subject::Account;

/// What a key takes: reads a value as a `T`, or tells what it should have been.
pub(crate) trait Kind<T>: Fn(&Given<'_>) -> Result<T, Mistakes> {}

impl<T, F: Fn(&Given<'_>) -> Result<T, Mistakes>> Kind<T> for F {}

/// A duration within bounds.
pub(crate) fn duration(bounds: RangeInclusive<Duration>) -> impl Kind<Duration> {
    move |given| {
        let span = given.text().and_then(parse);
        let span = span.ok_or_else(|| given.expected(r#"a duration such as "10m" (ms, s, m, h, d)"#))?;
        let (least, most) = (text(*bounds.start()), text(*bounds.end()));
        let wrong = || given.expected(format!("a duration from {least} to {most}"));
        bounds.contains(&span).then_some(span).ok_or_else(wrong)
    }
}

/// A whole number within bounds.
pub(crate) fn count<T: TryFrom<u64> + PartialOrd + Display>(bounds: RangeInclusive<T>) -> impl Kind<T> {
    move |given| {
        let count = given.number().and_then(|count| T::try_from(count).ok()).filter(|count| bounds.contains(count));
        count.ok_or_else(|| given.expected(format!("a whole number from {} to {}", bounds.start(), bounds.end())))
    }
}

/// Yes or no.
pub(crate) fn flag(given: &Given<'_>) -> Result<bool, Mistakes> {
    given.flag().ok_or_else(|| given.expected("true or false"))
}

/// One of some words, as what it stands for.
pub(crate) fn one_of<T: Copy>(words: &[(&str, T)]) -> impl Kind<T> {
    move |given| {
        let text = given.text();
        let word = words.iter().find(|(word, _)| Some(*word) == text);
        word.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            let (last, others) =
                words.split_last().map_or(("nothing", words.as_slice()), |(last, others)| (last, others));
            given.expected(format!("{} or {last}", others.join(", ")))
        })
    }
}

/// An array of such items. Every wrong one is told.
pub(crate) fn array<T>(of_what: &'static str, item: impl Kind<T>) -> impl Kind<Vec<T>> {
    move |given| {
        let items = given.items().ok_or_else(|| given.expected(format!("an array of {of_what}")))?;
        let (mut values, mut mistakes) = (Vec::new(), Vec::new());
        for given in items {
            match item(&given) {
                Ok(value) => values.push(value),
                Err(wrong) => mistakes.extend(wrong),
            }
        }
        Mistakes::of(mistakes).map_or(Ok(values), Err)
    }
}

/// At most so many phones in E.164. What is there instead is not repeated: it may be somebody's number in another form.
pub(crate) fn phones(most: usize) -> impl Kind<Vec<Phone>> {
    let phone = |given: &Given<'_>| {
        let phone = given.text().and_then(|text| text.parse().ok());
        phone.ok_or_else(|| given.expected(r#"a phone in E.164 such as "+15550100001""#))
    };
    let phones = array("phones", phone);
    move |given| {
        let (key, place, value) = (given.key.clone(), given.place.clone(), given.value.clone());
        let phones = phones(&Given { key, place, value, secret: true })?;
        let too_many = || given.expected_but_found(format!("at most {most} of them"), phones.len().to_string());
        if phones.len() > most { Err(too_many()) } else { Ok(phones) }
    }
}

/// What names limits and throttles.
pub(crate) fn name(given: &Given<'_>) -> Result<String, Mistakes> {
    let name = given.text().filter(|name| is_name(name)).map(str::to_owned);
    name.ok_or_else(|| given.expected("a name of 1 to 32 lower-case letters, digits and hyphens"))
}

/// Whether it can name a limit: as part of a header, a metric's label and an environment variable, with nothing to escape.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// An API key, as `sendly-gateway account` prints its hash.
pub(crate) fn account(given: &Given<'_>) -> Result<Account, Mistakes> {
    let is_hash = |text: &&str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bits = given.text().filter(is_hash).and_then(|text| u128::from_str_radix(text, 16).ok());
    let account = bits.and_then(NonZeroU128::new).map(Account::from_bits);
    // What is there instead may be the key itself.
    account.ok_or_else(|| {
        given.expected_but_found(
            "32 hexadecimal digits, as `sendly-gateway account` prints them",
            "something else".to_owned(),
        )
    })
}

/// Where a listener stands.
pub(crate) fn address(given: &Given<'_>) -> Result<SocketAddr, Mistakes> {
    let address = given.text().and_then(|text| text.parse().ok());
    address.ok_or_else(|| given.expected(r#"an address and a port such as "127.0.0.1:8080" or "[::]:8080""#))
}

/// A network, or a single address, which is a network of one.
pub(crate) fn network(given: &Given<'_>) -> Result<IpNet, Mistakes> {
    let one = |text: &str| text.parse::<IpAddr>().ok().map(IpNet::from);
    let network = given.text().and_then(|text| text.parse().ok().or_else(|| one(text)));
    let network = network.ok_or_else(|| given.expected(r#"a network such as "10.0.0.0/8", or an address"#))?;
    // Who writes 10.1.2.3/8 meant either 10.0.0.0/8 or 10.1.2.3, and a guess would decide whose word is trusted.
    let whole = network.trunc();
    let wrong = || given.expected(format!(r#""{whole}" or "{}""#, network.addr()));
    (whole == network).then_some(network).ok_or_else(wrong)
}

/// Where proxies say whom they were called by.
pub(crate) fn address_sources(given: &Given<'_>) -> Result<Vec<AddressSource>, Mistakes> {
    const MOST: usize = 8;
    let source = |given: &Given<'_>| {
        let name = given.text().map(str::to_ascii_lowercase);
        let is_header = |name: &str| {
            (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        match name {
            Some(name) if name == "forwarded" => Ok(AddressSource::Forwarded),
            Some(name) if name == "proxy-protocol" => Ok(AddressSource::ProxyProtocol),
            Some(name) if is_header(&name) => Ok(AddressSource::Header(name)),
            _ => Err(given.expected(r#""x-forwarded-for", "forwarded", "proxy-protocol" or another header's name"#)),
        }
    };
    let sources = array("headers", source)(given)?;
    let too_many = || given.expected_but_found(format!("at most {MOST} of them"), sources.len().to_string());
    if sources.len() > MOST { Err(too_many()) } else { Ok(sources) }
}

/// A file that is there and can be read. Its contents are for whoever needs them.
pub(crate) fn readable_file(given: &Given<'_>) -> Result<PathBuf, Mistakes> {
    let path = given.text().map(PathBuf::from).ok_or_else(|| given.expected("the name of a file"))?;
    // It is opened only if it is a file: to open a pipe is to wait for somebody who writes.
    let is_file = fs::metadata(&path).map(|metadata| metadata.is_file());
    match is_file.and_then(|is_file| if is_file { File::open(&path).map(Some) } else { Ok(None) }) {
        Ok(Some(_)) => Ok(path),
        Ok(None) => Err(given.expected("a file")),
        Err(error) => Err(given.expected_but_found(READABLE_FILE, format!("{}: {error}", given.shown()))),
    }
}

/// Where something will be.
pub(crate) fn path(given: &Given<'_>) -> Result<PathBuf, Mistakes> {
    let path = given.text().filter(|text| !text.is_empty() && !text.contains('\0')).map(PathBuf::from);
    path.ok_or_else(|| given.expected("a path"))
}

/// A secret: long enough not to be guessed.
pub(crate) fn passphrase(given: &Given<'_>) -> Result<String, Mistakes> {
    let text = given.text().filter(|text| (16..=1024).contains(&text.len())).map(str::to_owned);
    text.ok_or_else(|| given.expected("a secret of 16 to 1024 bytes"))
}

/// What a log lets through: `info`, or `warn,sendly_gateway=debug`.
pub(crate) fn log_filter(given: &Given<'_>) -> Result<String, Mistakes> {
    let filter = given.text().filter(|text| is_log_filter(text)).map(str::to_owned);
    filter.ok_or_else(|| {
        given.expected(
            r#"a level (off, error, warn, info, debug, trace), or levels of modules such as "info,hyper=warn""#,
        )
    })
}

/// Whether this says what a log lets through.
///
/// `EnvFilter` takes more. A misspelt level is one thing that it takes: for the name of a module, whose every line it then
/// lets through, and nothing else.
pub fn is_log_filter(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_directive = |text: &str| {
        let (module, level) = text.split_once('=').unwrap_or(("any", text));
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':');
        LEVELS.contains(&level) && !module.is_empty() && module.bytes().all(is_word)
    };
    text.split(',').all(is_directive)
}
