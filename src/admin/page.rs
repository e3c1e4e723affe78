//! The status page: one file, which fetches nothing but this listener's own `/v1/status` and `/v1/config`.

use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_FRAME_OPTIONS};

use super::answer::AdminAnswer;
use crate::policy::subject::HashKey;

const PAGE: &str = include_str!("page.html");

/// Where the page has its nonce.
const NONCE: &str = "{nonce}";

/// `GET /`.
pub(super) fn page() -> AdminAnswer {
    // Drawn anew for each answer: only what stands in the page itself runs, whatever may get into it.
    let nonce = format!("{:032x}", HashKey::random().hash(b"nonce", []));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    AdminAnswer::html(PAGE.replace(NONCE, &nonce))
        .with(CONTENT_SECURITY_POLICY, &policy)
        .with(REFERRER_POLICY, "no-referrer")
        .with(X_FRAME_OPTIONS, "DENY")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_nobody_else_for_anything_and_writes_no_markup() {
        for word in [
            "http://",
            "https://",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=\"",
            " onclick",
        ] {
            let found = PAGE.replace("http://www.w3.org/2000/svg", "").contains(word);
            assert!(!found, "{word} is in the page");
        }
        assert_eq!(PAGE.matches(NONCE).count(), 2, "its style and its script");
    }

    #[test]
    fn each_answer_has_a_nonce_of_its_own() {
        let policy = || {
            let response = page().into_response(false);
            let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
            let nonce = policy.split("'nonce-").nth(1).unwrap()[..32].to_owned();
            let body = String::from_utf8(response.into_body()).unwrap();
            assert_eq!((policy.matches(&nonce).count(), body.matches(&nonce).count()), (2, 2));
            policy
        };
        assert_ne!(policy(), policy());
    }
}
