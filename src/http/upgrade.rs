//! Requests that ask for another protocol on their connection (RFC 9110 section 7.8).
//!
//! What is spoken after the switch has no outcome that could be recorded: a request that carries a key does not get
//! there.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Version};

/// The protocols that a request asks for, in its order and without those that are not passed on; none when it asks for
/// none that is.
///
/// HTTP and TLS are not passed on: they would carry requests past whoever looks at them here.
pub(crate) fn asked(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !headers.contains_key(UPGRADE) || !is_nominated(headers) {
        return None;
    }
    let protocols: Vec<&[u8]> = protocols(headers).filter(|protocol| is_passed_on(protocol)).collect();
    match protocols.is_empty() {
        true => None,
        false => HeaderValue::from_bytes(&protocols.join(&b", "[..])).ok(),
    }
}

/// Whether an answer switches to one of the protocols that were asked for.
#[cfg(feature = "proxy")]
pub(crate) fn is_one_of(asked: &HeaderValue, answer: &HeaderMap) -> bool {
    let mut chosen = protocols(answer).peekable();
    let is_asked = |protocol: &[u8]| elements(asked).any(|asked| asked.eq_ignore_ascii_case(protocol));
    chosen.peek().is_some() && chosen.all(is_asked)
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(UPGRADE).iter().flat_map(elements)
}

fn elements(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Without that an `Upgrade` counts for nothing: it may come from before the last proxy.
fn is_nominated(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().flat_map(elements).any(|name| name.eq_ignore_ascii_case(b"upgrade"))
}

fn is_passed_on(protocol: &[u8]) -> bool {
    let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default();
    !["h2c", "h2", "http", "tls"].iter().any(|kept| name.eq_ignore_ascii_case(kept.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_by(lines: &[(&'static str, &'static str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        asked(Version::HTTP_11, &headers).map(|value| value.to_str().expect("text").to_owned())
    }

    #[test]
    fn only_what_is_nominated_and_passed_on_is_asked_for_h26() {
        let table = [
            ("Upgrade", "websocket", Some("websocket")),
            ("keep-alive, upgrade", "WebSocket", Some("WebSocket")),
            ("upgrade", "h2c, websocket,, x/1", Some("websocket, x/1")),
            ("upgrade, http2-settings", "h2c", None),
            ("upgrade", "H2C", None),
            ("upgrade", "HTTP/2.0, TLS/1.2, h2", None),
            ("upgrade", "", None),
            ("keep-alive", "websocket", None),
            ("x-upgrade", "websocket", None),
        ];
        for (connection, upgrade, expected) in table {
            let found = asked_by(&[("connection", connection), ("upgrade", upgrade)]);
            assert_eq!(found.as_deref(), expected, "{connection}: {upgrade}");
        }
        assert_eq!(asked_by(&[("upgrade", "websocket")]), None);
        let lines = [("connection", "close"), ("connection", "upgrade"), ("upgrade", "a"), ("upgrade", "h2c, b")];
        assert_eq!(asked_by(&lines).as_deref(), Some("a, b"));
    }

    #[test]
    fn older_and_newer_versions_know_no_upgrade_h26() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        for version in [Version::HTTP_10, Version::HTTP_2] {
            assert_eq!(asked(version, &headers), None, "{version:?}");
        }
    }

    #[cfg(feature = "proxy")]
    #[test]
    fn an_answer_names_what_was_asked_for_h26() {
        let asked = HeaderValue::from_static("websocket, x/1");
        for (chosen, expected) in
            [("WebSocket", true), ("x/1", true), ("h2c", false), ("websocket, h2c", false), ("", false)]
        {
            let headers = HeaderMap::from_iter([(UPGRADE, HeaderValue::from_static(chosen))]);
            assert_eq!(is_one_of(&asked, &headers), expected, "{chosen}");
        }
        assert!(!is_one_of(&asked, &HeaderMap::new()));
    }
}
