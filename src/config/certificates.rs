//! A certificate and its key, which are always named together.

use serde_json::Value;
use toml::Spanned;
use toml::de::DeValue;

use super::diagnostic::{Diagnostic, Findings};
use super::section::{Given, Section, Setting, section, table};

section! {
    /// The files as they are written.
    CertFiles {
        /// A PEM file: the certificate, then those between it and a root.
        cert: String,
        /// A PEM file: the certificate's private key, not encrypted.
        key: String,
    }
}

/// The files of a certificate and its key.
#[derive(Debug, Clone)]
pub struct CertAndKey {
    /// The certificate's path.
    pub cert: Given<String>,
    /// The key's path.
    pub key: Given<String>,
}

impl Setting for CertAndKey {
    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<CertAndKey> {
        let files = CertFiles::from_table(table(value, name, findings)?, name, findings);
        for missing in ["cert", "key"].into_iter().filter(|part| !files.has(part)) {
            let wrong = Diagnostic::error(format!("`{name}` has no `{missing}`")).at(value.span());
            findings.push(wrong.help(r#"write { cert = "FILE", key = "FILE" }"#));
        }
        Some(CertAndKey { cert: files.cert?, key: files.key? })
    }

    fn schema() -> Value {
        CertFiles::schema()
    }
}
