//! How paths read, however they are spelled.

use super::*;
use proptest::prelude::*;

const ID: &str = "ver_0123456789abcdef0123456789abcdef";

fn operation(method: &str, path: &str) -> Result<(Operation, String), String> {
    match read(&Method::from_bytes(method.as_bytes()).unwrap(), path) {
        Reading::Verify(call) => Ok((call.operation, call.path(path).to_owned())),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn the_twelve_routes_are_told_apart() {
    for (method, path, expected) in [
        ("POST", "/verify", Operation::Send),
        ("GET", "/verify", Operation::List),
        ("GET", "/verify/ID", Operation::Get),
        ("POST", "/verify/ID/resend", Operation::Resend),
        ("POST", "/verify/ID/check", Operation::Check),
        ("GET", "/verify/profiles", Operation::Profiles),
        ("POST", "/verify/profiles", Operation::Profiles),
        ("GET", "/verify/profiles/ID", Operation::Profiles),
        ("PATCH", "/verify/profiles/ID", Operation::Profiles),
        ("DELETE", "/verify/profiles/ID", Operation::Profiles),
        ("POST", "/verify/sessions", Operation::Sessions),
        ("POST", "/verify/sessions/validate", Operation::Sessions),
    ] {
        let path = format!("/api/v1{}", path.replace("ID", ID));
        assert_eq!(operation(method, &path), Ok((expected, path.clone())), "{method} {path}");
    }
}

#[test]
fn the_id_is_the_one_in_the_path() {
    let path = format!("/api/v1//verify/{ID}/resend");
    let Reading::Verify(call) = read(&Method::POST, &path) else { panic!("not a route") };
    assert_eq!(call.id(&path), ID);
}

#[test]
fn equivalent_spellings_become_the_canonical_one() {
    for path in [
        "/api/v1/verify",
        "/api/v1//verify",
        "//api/v1/verify",
        "/api//v1///verify",
        "/api/v1/%76erify",
        "/%61pi/v1/verif%79",
        "/api/v1/./verify",
        "/api/v1/x/../verify",
        "/api/v1/x/%2e%2e/verify",
        "/api/v1/verify/ver_1/../../verify",
    ] {
        assert_eq!(operation("POST", path), Ok((Operation::Send, "/api/v1/verify".to_owned())), "{path}");
    }
}

#[test]
fn whatever_else_reads_as_the_family_is_refused() {
    for path in [
        "/api/v1/verify/",
        "/api/v1/verify;x",
        "/api/v1/verify;x=1/",
        "/api/v1/verify%3B",
        "/api/v1/Verify",
        "/API/V1/VERIFY",
        "/api/v1/verify%2F",
        "/api/v1%2Fverify",
        "/api/v1/%2576erify",
        "/api/v1/%252576erify",
        "/api/v1\\verify",
        "/api/v1/%5Cverify",
        "/api/v1/verify%00",
        "/api/v1/verify%20",
        "/api/v1/verify%09",
        "/api/v1/verify%3Fx",
        "/api/v1/verify%23x",
        "/api/v1/verify%00x",
        "/api/v1/verify%20x",
        "/api/v1/verify%ffx",
        "/api/v1/ver%0aify",
        "//host/api/v1/verify",
        "///host/api/v1/verify",
        "//user@host:80/api/v1/verify",
        "/\\host/api/v1/verify",
        "/%2fhost/api/v1/%76erify",
        "//host/api/v1/verify/ver_1/resend",
        "/api/v1/verify.json",
        "/api/v1/verify./",
        "/api/v1/x%2f..%2fverify",
        "/api/v1/x\\..\\verify",
        "/verify",
        "/api/verify",
        "/api/v2/verify",
        "/api/v1/verify/ver_1/resend/",
        "/api/v1/verify/ver_1/RESEND",
        "/api/v1/verify/ver_1/send",
        "/api/v1/verify/ver%2F1/resend",
        "/api/v1/verify/../x",
        "/api/v1/verify/profiles/a/b",
        "/api/v1/verify/sessions/ver_1/resend",
        "/api/v1/verify/profiles/resend/resend",
        "/api/v1/verify;a/x/check",
        "/api/v1/verify;a/ver_x/resend",
        "/api/v1/verify%3F/x/check",
        "/api/v1/verify%3B/profiles",
        "/api/v1/verify%2Fver_1%2Fresend%3F/x/check",
        "/api/v1/verify%00/sessions",
        "/api/v1/verify.json/x/check",
        "/api/v1/verify%252525252525/x",
    ] {
        let reading = read(&Method::POST, path);
        assert!(matches!(reading, Reading::NotARoute), "{path}: {reading:?}");
    }
}

#[test]
fn profiles_and_sessions_are_never_taken_for_verifications() {
    for path in ["/api/v1/verify/profiles/resend", "/api/v1/verify/sessions/resend", "/api/v1/verify/sessions/check"] {
        assert!(!matches!(read(&Method::POST, path), Reading::Verify(_)), "{path}");
    }
}

#[test]
fn a_method_that_a_route_does_not_know_is_refused() {
    for (method, path, allow) in [
        ("PUT", "/api/v1/verify", "GET, POST"),
        ("post", "/api/v1/verify", "GET, POST"),
        ("HEAD", "/api/v1/verify", "GET, POST"),
        ("GET", "/api/v1/verify/ver_1/resend", "POST"),
        ("POST", "/api/v1/verify/ver_1", "GET"),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(read(&method, path), Reading::WrongMethod(allow), "{method} {path}");
    }
}

#[test]
fn other_calls_are_left_alone() {
    for path in [
        "/",
        "*",
        "",
        "/api/v1/messages",
        "/api/v1/messages/batch",
        "/api/v1/webhooks/wh_1/verify",
        "/api/v1/verifyx",
        "/api/v1/verifications",
        "/api/v1/contacts/a%20b",
        "/api/v1/conversations/1/messages",
        "/apiv1/verify",
        "//api/v1/messages",
        "/api/v1//webhooks/wh_1/verify",
    ] {
        assert_eq!(read(&Method::POST, path), Reading::Other, "{path}");
    }
}

proptest! {
    /// However a spelling of the send path is bent, it is judged as a send or refused; it never passes.
    #[test]
    fn no_bent_spelling_passes(
        upper in proptest::collection::vec(any::<bool>(), 14),
        encode in proptest::collection::vec(0_u8..3, 14),
        slashes in 1_usize..4,
        tail in prop_oneof![Just(""), Just("/"), Just(";a=b"), Just("%00"), Just("."), Just("/."), Just("/x/..")],
        route in prop_oneof![Just(""), Just("/x/check"), Just("/x/resend"), Just("/profiles"), Just("/sessions")],
    ) {
        let mut path = String::new();
        for (index, byte) in "/api/v1/verify".bytes().enumerate() {
            let byte = if upper[index] { byte.to_ascii_uppercase() } else { byte };
            match (encode[index], byte) {
                (0, _) | (_, b'/') if byte == b'/' && index > 0 => path.push_str(&"/".repeat(slashes)),
                (1, byte) if index > 0 => path.push_str(&format!("%{byte:02x}")),
                (2, byte) if index > 0 => path.push_str(&format!("%25{byte:02X}")),
                (_, byte) => path.push(char::from(byte)),
            }
        }
        path.push_str(tail);
        path.push_str(route);
        let reading = read(&Method::POST, &path);
        prop_assert_ne!(&reading, &Reading::Other, "{}", path);
        // What is taken for a route is forwarded as exactly that route.
        if let Reading::Verify(call) = reading {
            let canonical = call.path(&path);
            prop_assert!(canonical == "/api/v1/verify" || canonical.starts_with("/api/v1/verify/"), "{}", path);
        }
    }

    #[test]
    fn what_is_encoded_without_end_is_not_decoded_without_end(times in 1000_usize..32_000) {
        let path = format!("/%{}76erify", "25".repeat(times));
        prop_assert_eq!(read(&Method::POST, &path), Reading::NotARoute);
    }

    #[test]
    fn reading_never_panics(path in "\\PC*") {
        let _ = read(&Method::POST, &path);
    }
}
