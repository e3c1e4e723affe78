//! Whatever the text and the environment say, they are read to their end.

use proptest::prelude::*;

use super::variables::{full_text, variables};
use super::*;

/// Lines that are nearly a configuration.
fn nearly() -> impl Strategy<Value = String> {
    let lines: Vec<&'static str> = SHIPPED.lines().collect();
    let value = prop_oneof![
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("[[1]]".to_owned()),
        "-?[0-9]{1,20}",
        "\"[a-z0-9:/\\[\\]@.]{0,12}\"",
        ".{0,8}",
    ];
    let line = (proptest::sample::select(lines), proptest::option::of(value)).prop_map(|(line, value)| {
        let line = line.strip_prefix('#').unwrap_or(line);
        match (value, line.split_once('=')) {
            (Some(value), Some((key, _))) => format!("{key}= {value}"),
            _ => line.to_owned(),
        }
    });
    proptest::collection::vec(line, 0..40).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "(?s).{0,200}", name in "[A-Z0-9_]{0,20}", value in ".{0,20}") {
        let variable = format!("SENDLY_GATEWAY_{name}");
        let _ = parse(&text, &[(&variable, &value)]).map_err(|mistakes| mistakes.to_string());
    }

    #[test]
    fn nearly_a_configuration_is_read_without_a_panic(text in nearly()) {
        let _ = parse(&text, &[]).map_err(|mistakes| mistakes.to_string());
    }

    #[test]
    fn any_value_of_any_variable_is_read_without_a_panic(
        variable in proptest::sample::select(variables()),
        value in ".{0,20}",
    ) {
        let _ = parse(&full_text(), &[(&variable.0, &value)]).map_err(|mistakes| mistakes.to_string());
    }

    #[test]
    fn a_mistake_is_one_line(text in nearly()) {
        if let Err(mistakes) = parse(&text, &[]) {
            prop_assert_eq!(mistakes.to_string().lines().count(), mistakes.iter().count());
        }
    }
}
