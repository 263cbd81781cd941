//! The store.

use secrecy::ExposeSecret;

use super::StoreConfig;
use super::diagnostic::{Diagnostic, Findings};
use super::file::File;
use super::load::Overrides;
use super::secret::{Lookups, reveal};
use super::section::{Given, Section};
use crate::stores::url::StoreUrl;

/// The store; nothing when there is none that can be used.
pub(super) fn store(
    file: &File,
    overrides: &Overrides,
    lookups: &Lookups<'_>,
    findings: &mut Findings,
) -> Option<StoreConfig> {
    let given = file.store.as_ref();
    let url = given.and_then(|given| given.value.url.as_ref());
    let (url, place) = match (&overrides.store, url) {
        (Some(url), _) => (url.clone(), None),
        (None, Some(url)) => (reveal(url, "url", lookups, findings)?.expose_secret().to_owned(), Some(url.span())),
        (None, None) => {
            if !file.has("store") {
                let wrong = Diagnostic::error("the file has no [store]: there is nowhere to keep records");
                findings.push(wrong.help(r#"add [store] with a url such as "redis://127.0.0.1:6379/0""#));
            } else if let Some(given) = given.filter(|given| !given.value.has("url")) {
                findings.push(Diagnostic::error("[store] has no `url`").at(given.span()));
            }
            return None;
        }
    };
    let url = StoreUrl::parse(&url)
        .map_err(|error| {
            let name = if place.is_some() { "`url`" } else { "`--store or ONCEPROXY_STORE`" };
            findings.push(Diagnostic::error(format!("{name}: {error}")).at(place));
        })
        .ok()?;
    let mut config = StoreConfig::new(url);
    let Some(given) = given else { return Some(config) };
    if let Some(prefix) = &given.value.prefix {
        check_prefix(prefix, &config.url, findings);
        config.options.prefix.clone_from(&prefix.value);
    }
    if let Some(timeout) = &given.value.command_timeout {
        config.options.command_timeout = timeout.value.0;
    }
    if let Some(allow) = &given.value.unsafe_allow_eviction {
        config.options.allow_eviction = allow.value;
    }
    Some(config)
}

fn check_prefix(prefix: &Given<String>, url: &StoreUrl, findings: &mut Findings) {
    let (more, words) = match url {
        StoreUrl::Sqlite(_) | StoreUrl::Memory => (&b"_"[..], "letters, digits or `_`"),
        StoreUrl::Redis(_) => (&b"_-.:"[..], "letters, digits, `_`, `-`, `.` or `:`"),
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
    if prefix.value.len() > 64 || !prefix.value.bytes().all(good) {
        let wrong = format!("`prefix` is {:?}, but it has to be 1 to 64 {words}", prefix.value);
        findings.push(Diagnostic::error(wrong).at(prefix.span()));
    }
}
