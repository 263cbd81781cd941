//! Routes: each for itself.

use std::sync::Arc;

use super::diagnostic::{Diagnostic, Findings, Span};
use super::file::{PolicyFile, RouteFile, UpstreamFile};
use super::lists::{List, Named, plain_name, repeated};
use super::patterns;
use super::policies::{self, Surroundings};
use super::section::{Given, Section};
use super::sources::{MethodWord, is_host};
use crate::http::policy::Methods;
use crate::proxy::router::RouteSpec;
use crate::proxy::upstream::UpstreamSpec;

/// What routes refer to.
pub(super) struct Referred<'a> {
    /// The upstreams: name, place, and what it is if that could be read.
    pub upstreams: &'a [(String, Span, Option<Arc<UpstreamSpec>>)],
    /// The upstreams as the file has them.
    pub upstream_files: Option<&'a Named<UpstreamFile>>,
    /// `[defaults]`.
    pub defaults: &'a PolicyFile,
    /// Where problem types point to.
    pub docs_url: Option<Arc<str>>,
}

/// A route that can work, with what the file says about it.
pub(super) struct Built<'f> {
    /// The route.
    pub spec: RouteSpec,
    /// The file's words.
    pub file: &'f RouteFile,
    /// Its policy as the file has it, `[defaults]` included.
    pub policy: PolicyFile,
    /// Where its path stands.
    pub path: Span,
}

/// Makes routes; those that cannot work are missing and leave an error.
pub(super) fn routes<'f>(
    given: &'f [Given<RouteFile>],
    referred: &Referred<'_>,
    findings: &mut Findings,
) -> Vec<Built<'f>> {
    let names: Vec<Given<String>> = given.iter().filter_map(|route| route.value.name.clone()).collect();
    for (first, second) in repeated(&names) {
        let wrong = Diagnostic::error(format!("two routes are called `{}`", second.value));
        findings.push(wrong.at(second.span()).and(first.span(), "the other one"));
    }
    given.iter().filter_map(|route| build(route, referred, findings)).collect()
}

fn build<'f>(given: &'f Given<RouteFile>, referred: &Referred<'_>, findings: &mut Findings) -> Option<Built<'f>> {
    let file = &given.value;
    for name in ["name", "path", "upstream"].into_iter().filter(|name| !file.has(name)) {
        findings.push(Diagnostic::error(format!("a route has no `{name}`")).at(given.span()));
    }
    let name = file.name.as_ref().and_then(|name| accept(name, plain_name("a route's name", &name.value), findings));
    let path = file.path.as_ref().and_then(|path| accept(path, patterns::check("path", &path.value), findings));
    let host = file.host.as_ref().map(|host| (host, accept(host, check_host(&host.value), findings)));
    let methods = file.methods.as_ref().map(|given| methods(given, findings)).unwrap_or_default();
    let upstream = file.upstream.as_ref().and_then(|name| upstream(name, referred, findings));
    let own = file.policy.as_ref().map(|policy| policy.value.clone()).unwrap_or_default();
    let policy_file = own.over(referred.defaults);
    let (name, path, upstream) = (name?, path?, upstream?);
    let around = Surroundings {
        name: &name.value,
        place: given.span(),
        path,
        methods,
        upstream: &upstream,
        response_timeout: response_timeout(&upstream.name, referred),
        docs_url: referred.docs_url.clone(),
    };
    let policy = policies::policy(&policy_file, &around, findings);
    let host = match host {
        Some((_, accepted)) => Some(Arc::from(accepted?.value.to_ascii_lowercase())),
        None => None,
    };
    let spec = RouteSpec { host, path: Arc::from(path.value.as_str()), policy: Arc::new(policy), upstream };
    Some(Built { spec, file, policy: policy_file, path: path.span() })
}

fn accept<'g>(
    given: &'g Given<String>,
    verdict: Result<(), Diagnostic>,
    findings: &mut Findings,
) -> Option<&'g Given<String>> {
    verdict.map_err(|wrong| findings.push(wrong.at(given.span()))).ok().map(|()| given)
}

fn check_host(host: &str) -> Result<(), Diagnostic> {
    let wrong = |what: &str| Diagnostic::error(format!("`host` is {host:?}, {what}"));
    if is_host(host) {
        return Ok(());
    }
    if let Some((name, port)) = host.rsplit_once(':')
        && port.parse::<u16>().is_ok()
    {
        return Err(wrong("but a host stands without its port").help(format!("did you mean {name:?}?")));
    }
    Err(wrong("which is not a host's name").help("one name per route, no wildcards: api.example.com"))
}

fn methods(given: &Given<List<MethodWord>>, findings: &mut Findings) -> Methods {
    let words = &given.value.0;
    let any = words.iter().find(|word| word.value == MethodWord::Any);
    if let (Some(any), true) = (any, words.len() > 1) {
        findings.push(Diagnostic::error("`\"*\"` is every method already: it stands alone").at(any.span()));
    }
    let named = words.iter().filter_map(|word| match &word.value {
        MethodWord::Any => None,
        MethodWord::One(method) => Some(method.clone()),
    });
    match any {
        Some(_) => Methods::AllUnsafe,
        None => Methods::Only(named.collect()),
    }
}

fn upstream(given: &Given<String>, referred: &Referred<'_>, findings: &mut Findings) -> Option<Arc<UpstreamSpec>> {
    let name = &given.value;
    match referred.upstreams.iter().find(|(known, _, _)| known == name) {
        Some((_, _, spec)) => spec.clone(),
        None => {
            let wrong = Diagnostic::error(format!("there is no upstream `{name}`")).at(given.span());
            let known = referred.upstreams.iter().map(|(known, _, _)| known.as_str());
            findings.push(wrong.suggest(name, known));
            None
        }
    }
}

fn response_timeout(upstream: &str, referred: &Referred<'_>) -> Option<Span> {
    let (_, file) = referred.upstream_files?.0.iter().find(|(name, _)| name == upstream)?;
    file.value.response_timeout.as_ref().map(Given::span)
}
