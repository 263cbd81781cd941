//! What works, but may hurt.

use secrecy::ExposeSecret;

use super::StoreConfig;
use super::diagnostic::{Diagnostic, Findings};
use super::file::File;
use super::load::Overrides;
use super::routes::Built;
use super::secret::Secret;
use super::section::{Given, Section};
use super::servers::listener_place;
use crate::http::policy::{KeyRule, Mode, StoreDown};
use crate::proxy::listener::ListenerSpec;
use crate::stores::url::StoreUrl;

/// Warns of routes whose policy may hurt.
pub(super) fn routes(routes: &[Built<'_>], findings: &mut Findings) {
    for route in routes.iter().filter(|route| route.spec.policy.mode == Mode::Enforce) {
        let (policy, name) = (&route.spec.policy, &route.spec.policy.terms.route);
        if !route.policy.has("scope") {
            let warning = format!("route `{name}` leaves `scope` at its default, which is made of all credentials");
            findings.push(Diagnostic::warning(warning).at(route.path.clone()).help(
                "a refreshed token, a changing cookie or a signature per request makes a retry another caller's: \
                 name what stays, such as scope = [\"header:x-account-id\"]",
            ));
        }
        if policy.store_down == StoreDown::Bypass && policy.key == KeyRule::Required {
            let warning = "`store_down = \"bypass\"` lets requests run twice that are required to have a key";
            let place = route.policy.store_down.as_ref().map(Given::span);
            let key = route.policy.key.as_ref().map(Given::span);
            findings.push(Diagnostic::warning(warning).at(place).and(key, "required here"));
        }
    }
}

/// Warns of a store that forgets with the process behind an address that the world can reach.
pub(super) fn store(
    file: &File,
    store: &StoreConfig,
    listener: &ListenerSpec,
    overrides: &Overrides,
    findings: &mut Findings,
) {
    if store.url != StoreUrl::Memory || listener.address.is_local() {
        return;
    }
    let place = file.store.as_ref().filter(|_| overrides.store.is_none());
    let place = place.and_then(|given| given.value.url.as_ref()).map(Given::span);
    let warning = format!("the store `memory:` forgets every key with the process, and {} is public", listener.address);
    findings.push(
        Diagnostic::warning(warning)
            .at(place)
            .and(listener_place(file, overrides), "the address")
            .help("use sqlite:PATH or redis://… where retries must survive a restart"),
    );
}

/// Warns of secrets that stand in the file.
pub(super) fn secrets(file: &File, findings: &mut Findings) {
    let token = file.admin.as_ref().and_then(|given| given.value.token.as_ref());
    let url = file.store.as_ref().and_then(|given| given.value.url.as_ref()).filter(|url| has_password(&url.value));
    for (given, name) in [(token, "token"), (url, "url")] {
        let Some(given) = given.filter(|given| matches!(given.value, Secret::Written(_))) else { continue };
        let warning = format!("`{name}` is a secret, and it is written in the file");
        let help = format!(r#"put it elsewhere: {name} = {{ env = "NAME" }} or {{ file = "PATH" }}"#);
        findings.push(Diagnostic::warning(warning).at(given.span()).help(help));
    }
}

fn has_password(url: &Secret) -> bool {
    let Secret::Written(url) = url else { return false };
    let user = url.expose_secret().split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
    user.is_some_and(|(user, _)| user.contains(':'))
}
