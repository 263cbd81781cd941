//! Routes beside each other: which collide, and which let pass what a wider one protects.

use std::collections::HashMap;

use http::Method;

use super::diagnostic::{Diagnostic, Findings};
use super::patterns::{covers, shape};
use super::routes::Built;
use crate::http::policy::{Methods, Mode};
use crate::proxy::router::disjoint;

/// Reports routes that match the same requests.
pub(super) fn collisions(routes: &[Built<'_>], findings: &mut Findings) {
    let mut sharp: HashMap<(Option<&str>, String), Vec<&Built<'_>>> = HashMap::new();
    let mut matchers: HashMap<Option<&str>, matchit::Router<()>> = HashMap::new();
    for route in routes {
        let host = route.spec.host.as_deref();
        let same = sharp.entry((host, shape(&route.spec.path))).or_default();
        if let Some(other) = same.iter().find(|other| !can_share(route, other)) {
            findings.push(collision(route, other));
        }
        if same.is_empty()
            && let Err(matchit::InsertError::Conflict { with }) =
                matchers.entry(host).or_default().insert(route.spec.path.as_ref(), ())
        {
            let other = routes.iter().find(|other| other.spec.host.as_deref() == host && *other.spec.path == *with);
            let wrong = format!("the paths {} and {with} cannot stand beside each other", route.spec.path);
            let wrong = Diagnostic::error(wrong).at(route.path.clone());
            findings.push(
                wrong
                    .and(other.map(|other| other.path.clone()), "the other path")
                    .help("where one has a parameter, the other has one or a catch-all: begin that part of one of them with a fixed text"),
            );
        }
        same.push(route);
    }
}

/// Warns of a specific route that lets a method pass which a wider one protects.
pub(super) fn gaps(routes: &[Built<'_>], findings: &mut Findings) {
    for narrow in routes {
        let wider = routes.iter().filter(|wide| is_wider(wide, narrow) && is_protecting(wide));
        let gap = wider.flat_map(|wide| examples(wide).into_iter().map(move |method| (wide, method)));
        let mut gap = gap.filter(|(_, method)| lets_pass(narrow, routes, method));
        let Some((wide, method)) = gap.next() else { continue };
        let (name, wide_name) = (&narrow.spec.policy.terms.route, &wide.spec.policy.terms.route);
        let warning = Diagnostic::warning(format!(
            "route `{name}` lets {method} pass unprotected, though the wider route `{wide_name}` protects it"
        ));
        findings.push(warning.at(narrow.path.clone()).and(wide.path.clone(), "the wider one").help(
            "add the method to the route's `methods`, or, where it is meant, list it in a route with `mode = \"off\"`",
        ));
    }
}

fn collision(route: &Built<'_>, other: &Built<'_>) -> Diagnostic {
    let (name, other_name) = (&route.spec.policy.terms.route, &other.spec.policy.terms.route);
    let wrong = Diagnostic::error(format!("routes `{other_name}` and `{name}` match the same requests"));
    wrong
        .at(route.path.clone())
        .and(other.path.clone(), format!("route `{other_name}`"))
        .help("two routes may share a path with disjoint `methods` and the same upstream")
}

fn can_share(one: &Built<'_>, other: &Built<'_>) -> bool {
    disjoint(&one.spec.policy.methods, &other.spec.policy.methods) && one.spec.upstream.name == other.spec.upstream.name
}

/// Whether `wide` would get the requests of `narrow` if that were not there.
fn is_wider(wide: &Built<'_>, narrow: &Built<'_>) -> bool {
    let hosts = (&wide.spec.host, &narrow.spec.host);
    let same_place = hosts.0 == hosts.1 && shape(&wide.spec.path) == shape(&narrow.spec.path);
    (hosts.0.is_none() || hosts.0 == hosts.1) && !same_place && covers(&wide.spec.path, &narrow.spec.path)
}

fn is_protecting(route: &Built<'_>) -> bool {
    route.spec.policy.mode == Mode::Enforce
}

/// The methods that a route protects; of a route that protects all, the usual ones.
fn examples(route: &Built<'_>) -> Vec<Method> {
    match &route.spec.policy.methods {
        Methods::Only(methods) => methods.clone(),
        Methods::AllUnsafe => vec![Method::POST, Method::PUT, Method::PATCH, Method::DELETE],
    }
}

/// Whether a method passes at a route's place unprotected, and nobody has said that it should.
fn lets_pass(narrow: &Built<'_>, routes: &[Built<'_>], method: &Method) -> bool {
    let place = shape(&narrow.spec.path);
    let mut here =
        routes.iter().filter(|other| other.spec.host == narrow.spec.host && shape(&other.spec.path) == place);
    !here.any(|route| {
        let listed = route.spec.policy.methods.protect(method);
        listed && (is_protecting(route) || route.spec.policy.mode == Mode::Observe || is_meant(route))
    })
}

/// A route that turns protection off for methods that it lists means it.
fn is_meant(route: &Built<'_>) -> bool {
    let own_mode = route.file.policy.as_ref().is_some_and(|policy| policy.value.mode.is_some());
    own_mode && route.file.methods.is_some()
}
