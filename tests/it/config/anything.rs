//! No text makes the loader panic, and every finding can be shown.

use onceproxy::config::render::Style;
use proptest::prelude::*;

use super::{GOOD, load_text};

fn show(text: &str) {
    let report = load_text(text);
    let shown = report.to_text(Style::Plain);
    assert!(shown.contains("test.toml"), "{shown}");
    assert_eq!(report.to_json().as_array().map(Vec::len), Some(report.diagnostics.len()));
    assert_eq!(report.config.is_none(), report.has_errors(), "{:?}", report.diagnostics);
    let _ = report.explain("POST /v1/payments");
}

/// Values that are likely to be wrong somewhere.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("\"\"".to_owned()),
        Just("0".to_owned()),
        Just("-1".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("0xffff".to_owned()),
        Just("1e400".to_owned()),
        Just("[[]]".to_owned()),
        Just("{}".to_owned()),
        Just("{ a = { b = 1 } }".to_owned()),
        Just("true".to_owned()),
        Just("1979-05-27".to_owned()),
        Just("[\"\", 1, {}]".to_owned()),
        "\"[ -~äß€]{0,12}\"",
        "\"[0-9]{1,20}(ms|s|d|y|KiB|EiB|%)\"",
        "\"(/|\\{|\\}|\\*|a|%61|\\.\\.)*\"",
        "\"(http|https|redis|sqlite|memory|unix)(:|://)[a-z0-9@:/\\[\\]]*\"",
        "\"(header|query|path|json|cookie|jwt):[a-z/~ ]*\"",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_loaded_or_reported(text in "\\PC{0,200}") {
        show(&text);
    }

    #[test]
    fn any_damage_to_a_good_file_is_loaded_or_reported(
        at in 0..GOOD.len(), length in 0..12_usize, instead in "[\\[\\]{}\"'=.,#\n a-z0-9é]{0,6}",
    ) {
        let end = (at + length).min(GOOD.len());
        show(&format!("{}{instead}{}", &GOOD[..at], &GOOD[end..]));
    }

    #[test]
    fn any_value_of_any_setting_is_loaded_or_reported(index in 0..1000_usize, value in value()) {
        let settings = onceproxy::config::schema::settings();
        let (path, _) = &settings[index % settings.len()];
        let text = match path.split_once('.') {
            None => format!("{path} = {value}\n"),
            Some(("upstreams", rest)) => format!("[upstreams.api]\n{rest} = {value}\n"),
            Some(("routes", rest)) => format!("[[routes]]\n{rest} = {value}\n"),
            Some((section, rest)) => format!("[{section}]\n{rest} = {value}\n"),
        };
        show(&text);
        // And among settings that are right.
        let beside: String = GOOD
            .split_inclusive('\n')
            .map(|line| match path.rsplit('.').next() {
                Some(name) if line.starts_with(&format!("{name} =")) => format!("{name} = {value}\n"),
                _ => line.to_owned(),
            })
            .collect();
        show(&beside);
    }
}
