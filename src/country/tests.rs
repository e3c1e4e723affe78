use super::*;

fn country(phone: &str) -> Option<&'static str> {
    Country::of(phone.parse().unwrap()).map(Country::code)
}

#[test]
fn countries_that_share_a_calling_code_are_told_apart() {
    for (phone, expected) in [
        ("+12125550123", "US"),
        ("+15550100123", "US"),
        ("+18005550123", "US"),
        ("+14165550123", "CA"),
        ("+16045550123", "CA"),
        ("+18765550123", "JM"),
        ("+16585550123", "JM"),
        ("+18095550123", "DO"),
        ("+17875550123", "PR"),
        ("+14415550123", "BM"),
        ("+79161234567", "RU"),
        ("+77011234567", "KZ"),
        ("+447400123456", "GB"),
        ("+447781123456", "GG"),
        ("+447797123456", "JE"),
        ("+447624123456", "IM"),
        ("+212612345678", "MA"),
        ("+393123456789", "IT"),
        ("+390669812345", "VA"),
        ("+262692123456", "RE"),
        ("+262639012345", "YT"),
        ("+59991234567", "CW"),
        ("+5993181234", "BQ"),
        ("+4915112345678", "DE"),
        ("+38343201234", "XK"),
        ("+8613123456789", "CN"),
        ("+852512345678", "HK"),
    ] {
        assert_eq!(country(phone), Some(expected), "{phone}");
    }
}

#[test]
fn what_no_country_gave_out_has_none() {
    for phone in ["+80012345678", "+870123456789", "+8821234567", "+9991234567", "+210123456", "+99"] {
        assert_eq!(country(phone), None, "{phone}");
    }
}

#[test]
fn a_code_names_a_country_and_back() {
    let mut codes = Vec::new();
    for index in 0..Country::COUNT {
        let country = Country(u8::try_from(index).unwrap());
        assert_eq!(country.code().parse(), Ok(country));
        codes.push(country.code());
    }
    assert!(codes.is_sorted() && codes.len() == 250, "ISO 3166 has 249, and Kosovo");
    for text in ["", "U", "us", "USA", "ZZ", "D ", " D", "UK"] {
        assert_eq!(text.parse::<Country>(), Err(NoCountry), "{text:?}");
    }
}

#[test]
fn the_shortest_and_the_longest_number_have_a_place() {
    assert_eq!((leading(12), leading(1), leading(999_999_999_999_999)), (12_000_000, 10_000_000, 99_999_999));
    assert_eq!(country("+12"), Some("US"));
    assert_eq!(country("+999999999999999"), None);
}

/// `tests/fixtures/prefixes.txt` has the first eight digits of numbers, and where libphonenumber says that they are.
#[test]
fn numbers_are_where_libphonenumber_says() {
    let fixture = include_str!("../../tests/fixtures/prefixes.txt");
    let mut wrong = Vec::new();
    let (mut countries, mut prefixes) = (0, 0);
    for line in fixture.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let expected = words.next().unwrap();
        countries += 1;
        for prefix in words {
            prefixes += 1;
            let found = country(&format!("+{prefix}000"));
            if found != Some(expected) {
                wrong.push(format!("+{prefix}: {expected}, found {found:?}"));
            }
        }
    }
    assert!(countries > 230 && prefixes > 5000, "{countries} countries, {prefixes} prefixes");
    assert!(wrong.is_empty(), "{} of {prefixes}:\n{}", wrong.len(), wrong.join("\n"));
}
