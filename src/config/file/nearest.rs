//! Which of the names that exist may have been meant by one that does not.

/// The known path that an unknown one may stand for: misspelt, or right but in the wrong section.
pub(super) fn path<'k>(unknown: &str, known: impl Iterator<Item = &'k str> + Clone) -> Option<&'k str> {
    let key = unknown.rsplit('.').next();
    let mut elsewhere = known.clone().filter(|path| path.rsplit('.').next() == key);
    name(unknown, known).or_else(|| match (elsewhere.next(), elsewhere.next()) {
        (Some(path), None) => Some(path),
        _ => None,
    })
}

/// The known name that is closest to an unknown one, if any is close.
pub(super) fn name<'k>(unknown: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let most = (unknown.chars().count() / 3).min(2);
    let (distance, name) = known.map(|name| (distance(unknown, name), name)).min()?;
    (distance <= most).then_some(name)
}

/// How many characters have to be put in, taken out or replaced (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (above, a) in from.chars().enumerate() {
        let (mut diagonal, mut left) = (above, above + 1);
        for (cell, b) in row.iter_mut().skip(1).zip(to.chars()) {
            left = (diagonal + usize::from(a != b)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, left);
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_characters() {
        for (from, to, count) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("url", "ulr", 2),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
        ] {
            assert_eq!(distance(from, to), count, "{from:?} {to:?}");
        }
    }

    #[test]
    fn a_key_is_found_misspelt_or_in_the_wrong_section() {
        let known = ["drain_timeout", "upstream.url", "upstream.connect_timeout", "upstream.listen", "admin.listen"];
        let path = |unknown| path(unknown, known.into_iter());
        assert_eq!(path("upstream.conect_timeout"), Some("upstream.connect_timeout"));
        assert_eq!(path("admin.drain_timeout"), Some("drain_timeout"));
        assert_eq!(path("listen"), None, "two sections have it");
        assert_eq!(path("colour"), None);
    }
}
