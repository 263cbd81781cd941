//! What becomes of a request: its route, its upstream, and each setting with the line that it comes from.

use std::fmt::Write as _;

use http::{Method, Uri};

use super::defaults;
use super::diagnostic::Position;
use super::file::{File, PolicyFile, RouteFile};
use super::load::Report;
use super::section::{Given, Origin, Section};
use super::values::show_duration;
use crate::http::policy::{Mode, Policy};
use crate::proxy::router::{NoRoute, RouteSpec, Router};

/// Why a request cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The text is not a method and a target.
    #[error(
        "{0:?} is not a request: it looks like \"POST /v1/payments\" or \"POST http://api.example.com/v1/payments\""
    )]
    BadRequest(String),
    /// The configuration has errors.
    #[error("the configuration has errors: they come first")]
    BadConfig,
}

/// Explains a request, such as `POST /v1/payments`.
pub(super) fn explain(report: &Report, request: &str) -> Result<String, ExplainError> {
    let bad = || ExplainError::BadRequest(request.to_owned());
    let (method, target) = request.trim().split_once(char::is_whitespace).ok_or_else(bad)?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| bad())?;
    let target: Uri = target.trim().parse().map_err(|_| bad())?;
    if !target.path().starts_with('/') {
        return Err(bad());
    }
    let (Some(config), Some(file)) = (&report.config, &report.file) else { return Err(ExplainError::BadConfig) };
    let mut out = format!("{method} {target}\n");
    let router = Router::new(&config.routes).map_err(|_| ExplainError::BadConfig)?;
    let host = target.host().map(str::to_ascii_lowercase);
    let index = match router.find(host.as_deref(), target.path(), &method) {
        Ok(index) => index,
        Err(NoRoute::NotFound) => return Ok(out + "  no route matches: 404 no-route\n"),
        Err(NoRoute::Ambiguous) => {
            return Ok(out + "  the path leads to another route when it is resolved: 400 bad-request\n");
        }
    };
    let route = &config.routes[index];
    let route_file = file.routes.as_ref().and_then(|routes| routes.value.get(index));
    write_head(&mut out, report, route, route_file, &method);
    let own = route_file.and_then(|file| file.value.policy.as_ref()).map(|given| given.value.clone());
    let below = file.defaults.as_ref().map(|given| given.value.clone()).unwrap_or_default();
    let policy = own.unwrap_or_default().over(&below);
    out.push_str("policy\n");
    write_policy(&mut out, report, &policy, &route.policy, &route.upstream.name);
    out.push_str("upstream\n");
    write_upstream(&mut out, report, file, &route.upstream.name);
    Ok(out)
}

fn write_head(out: &mut String, report: &Report, route: &RouteSpec, file: Option<&Given<RouteFile>>, method: &Method) {
    let policy = &route.policy;
    let methods = defaults::methods(&policy.methods);
    let protected = match policy.mode {
        Mode::Off => "no: the route's mode is \"off\"".to_owned(),
        _ if method.is_safe() => format!("no: {method} is safe"),
        _ if !policy.methods.protect(method) => format!("no: the route protects {methods}"),
        Mode::Observe => format!("only observed: the route watches {methods}"),
        Mode::Enforce => format!("yes: the route protects {methods}"),
    };
    let name = file.and_then(|file| file.value.name.as_ref());
    row(out, "route", &policy.terms.route, &name.map(|name| line(report, &name.origin)).unwrap_or_default());
    let path = file.and_then(|file| file.value.path.as_ref());
    row(out, "path", &route.path, &path.map(|path| line(report, &path.origin)).unwrap_or_default());
    if let Some(host) = &route.host {
        row(out, "host", host, "");
    }
    row(out, "upstream", &format!("{} at {}", route.upstream.name, route.upstream.url()), "");
    row(out, "protected", &protected, "");
}

fn write_policy(out: &mut String, report: &Report, file: &PolicyFile, policy: &Policy, upstream: &str) {
    let defaults = defaults::of("policy");
    for (name, origin) in file.origins() {
        let default = || match name {
            "namespace" => (format!("{:?}", &*policy.namespace), format!("default: the name of upstream {upstream}")),
            "retry_grace" => {
                let grace = format!("{:?}", show_duration(policy.terms.retry_grace));
                (grace, format!("default: the response_timeout of upstream {upstream}"))
            }
            name => (default_of(&defaults, name), "default".to_owned()),
        };
        let (value, source) =
            origin.map_or_else(default, |origin| (as_written(report, &origin), line(report, &origin)));
        row(out, name, &value, &source);
    }
}

fn write_upstream(out: &mut String, report: &Report, file: &File, upstream: &str) {
    let named = file.upstreams.as_ref().and_then(|all| all.value.0.iter().find(|(name, _)| name == upstream));
    let defaults = defaults::of("upstreams");
    let origins = named.map(|(_, given)| given.value.origins()).unwrap_or_default();
    for (name, origin) in origins {
        match origin {
            Some(origin) => row(out, name, &as_written(report, &origin), &line(report, &origin)),
            None if defaults.iter().any(|(known, _)| *known == name) => {
                row(out, name, &default_of(&defaults, name), "default");
            }
            None => {}
        }
    }
}

fn default_of(defaults: &[(&str, String)], name: &str) -> String {
    defaults.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone()).unwrap_or_default()
}

fn row(out: &mut String, name: &str, value: &str, source: &str) {
    let row = format!("  {name:<20} {value:<32} {source}");
    let _ = writeln!(out, "{}", row.trim_end());
}

/// A value as the file has it, on one line.
fn as_written(report: &Report, origin: &Origin) -> String {
    let text = report.text.get(origin.span.clone()).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line(report: &Report, origin: &Origin) -> String {
    let line = Position::of(&report.text, origin.span.start).line;
    match origin.section {
        "defaults" => format!("[defaults] line {line}"),
        "upstreams" => format!("upstream line {line}"),
        _ => format!("route line {line}"),
    }
}
