//! Mistakes about the certificates of upstreams.

use onceproxy::config::diagnostic::Severity;

use super::{UPSTREAM_URL, assert_errors};
use crate::config::{assert_one, related};

#[test]
fn certificates_belong_to_https_upstreams_and_can_be_read() {
    let (text, found) = assert_one(
        UPSTREAM_URL,
        "url = \"http://h\"\nca = «\"ca.pem\"»\n",
        Severity::Error,
        "`ca` is for https upstreams, and this is none",
        None,
    );
    assert_eq!(related(&text, &found), "\"http://h\"");
    let (cert, key) = ("cert = \"cert.pem\"", "key = \"key.pem\"");
    assert_errors(&[
        (
            UPSTREAM_URL,
            &format!("url = \"unix:/run/a.sock\"\nclient_cert = «{{ {cert}, {key} }}»\n"),
            "`client_cert` is for https",
        ),
        (UPSTREAM_URL, "url = \"https://h\"\nca = «\"none.pem\"»\n", "`ca`: none.pem cannot be read: "),
        (UPSTREAM_URL, "url = \"https://h\"\nca = «\"token.txt\"»\n", "`ca`: token.txt holds no certificate"),
        (UPSTREAM_URL, "url = \"https://h\"\nca = «\"key.pem\"»\n", "`ca`: key.pem holds no certificate"),
        (UPSTREAM_URL, "url = \"https://h\"\nca = «\"torn.pem\"»\n", "`ca`: torn.pem is not PEM"),
        (
            UPSTREAM_URL,
            "url = \"https://h\"\nca = «\"odd.pem\"»\n",
            "odd.pem holds a certificate that cannot be trusted",
        ),
        (UPSTREAM_URL, "url = \"https://h\"\nca = «7»\n", "`ca` is a text"),
        (UPSTREAM_URL, "url = «\"https://a..b\"»\nca = \"ca.pem\"\n", "has a host that no certificate can be for"),
        (UPSTREAM_URL, &https(&format!("{{ «crt» = \"c\", {cert}, {key} }}")), "`crt` in `client_cert`"),
        (UPSTREAM_URL, &https(&format!("«{{ {cert} }}»")), "`client_cert` has no `key`"),
        (UPSTREAM_URL, &https(&format!("«{{ {key} }}»")), "`client_cert` has no `cert`"),
        (UPSTREAM_URL, &https("«\"cert.pem\"»"), "`client_cert` is a table"),
        (UPSTREAM_URL, &https(&format!("{{ cert = «\"none.pem\"», {key} }}")), "`cert`: none.pem cannot be read"),
        (UPSTREAM_URL, &https(&format!("{{ cert = «\"key.pem\"», {key} }}")), "`cert`: key.pem holds no certificate"),
        (UPSTREAM_URL, &https(&format!("{{ {cert}, key = «\"none.pem\"» }}")), "`key`: none.pem cannot be read"),
        (UPSTREAM_URL, &https(&format!("{{ {cert}, key = «\"cert.pem\"» }}")), "`key`: cert.pem holds no private key"),
        (
            UPSTREAM_URL,
            &https(&format!("{{ {cert}, key = «\"other-key.pem\"» }}")),
            "`key`: other-key.pem does not belong to the certificate",
        ),
    ]);
}

/// An https upstream with this client certificate.
fn https(client_cert: &str) -> String {
    format!("url = \"https://h\"\nca = \"ca.pem\"\nclient_cert = {client_cert}\n")
}
