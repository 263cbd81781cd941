//! The router: from host, path and method to a route.
//!
//! What decides is the path as the upstream may understand it: unreserved escapes decoded, dot and empty segments
//! resolved. Where the path as received would lead to another route, the request is ambiguous and refused: otherwise
//! a spelling could walk around a protected route.

mod path;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use matchit::Router as Tree;

use crate::http::attempt::PathParams;
use crate::http::policy::{Methods, Mode, Policy};
use crate::proxy::router::path::{Pattern, read_otherwise, resolve};
use crate::proxy::upstream::UpstreamSpec;

/// A route, as configured. Its name is the policy's `terms.route`.
#[derive(Debug, Clone)]
pub struct RouteSpec {
    /// Only this host, in lower case, without a port; every host without.
    pub host: Option<Arc<str>>,
    /// A matchit pattern.
    pub path: Arc<str>,
    /// What is protected, and how.
    pub policy: Arc<Policy>,
    /// Where its requests go.
    pub upstream: Arc<UpstreamSpec>,
}

/// Why a route cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The pattern is not one.
    #[error("the path is not a pattern: {0}")]
    BadPattern(String),
    /// It matches what another one matches, with common methods or another upstream.
    #[error("it collides with route {other}")]
    Collision {
        /// The index of the other route.
        other: usize,
    },
}

/// Why a request has no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// None matches.
    NotFound,
    /// The path as received matches another one than the resolved path.
    Ambiguous,
}

/// All routes of a proxy.
#[derive(Default)]
pub struct Router {
    hosts: HashMap<Arc<str>, Tree<usize>>,
    everywhere: Tree<usize>,
    /// The routes at each place of a tree.
    places: Vec<Vec<usize>>,
    routes: Vec<Known>,
}

/// What the router knows of a route.
struct Known {
    methods: Methods,
    /// Whether its policy does anything.
    is_on: bool,
    /// The names of its path's parameters.
    names: Vec<String>,
}

impl Router {
    /// Makes a router of routes; a found route is an index into them.
    ///
    /// # Errors
    /// The index of the first route that cannot be added, and why.
    pub fn new(routes: &[RouteSpec]) -> Result<Router, (usize, RouteError)> {
        let mut router = Router::default();
        for (index, route) in routes.iter().enumerate() {
            router.add(route, routes).map_err(|error| (index, error))?;
        }
        router.add_empty_rests(routes);
        Ok(router)
    }

    fn add(&mut self, route: &RouteSpec, all: &[RouteSpec]) -> Result<(), RouteError> {
        let pattern = Pattern::parse(&route.path).map_err(RouteError::BadPattern)?;
        let index = self.routes.len();
        let tree = match &route.host {
            Some(host) => self.hosts.entry(host.clone()).or_default(),
            None => &mut self.everywhere,
        };
        match tree.insert(pattern.text.as_str(), self.places.len()) {
            Ok(()) => self.places.push(vec![index]),
            Err(matchit::InsertError::Conflict { with }) => {
                let place = self.place_of(&with, all, route);
                let Some(place) = place.filter(|_| with == pattern.text) else {
                    return Err(place.map_or_else(
                        || RouteError::BadPattern(format!("it conflicts with {with}")),
                        |place| RouteError::Collision { other: self.places[place][0] },
                    ));
                };
                let rival = self.places[place].iter().copied().find(|&other| {
                    !disjoint(&all[other].policy.methods, &route.policy.methods)
                        || all[other].upstream.name != route.upstream.name
                });
                if let Some(other) = rival {
                    return Err(RouteError::Collision { other });
                }
                self.places[place].push(index);
            }
            Err(error) => return Err(RouteError::BadPattern(error.to_string())),
        }
        self.routes.push(Known {
            methods: route.policy.methods.clone(),
            is_on: route.policy.mode != Mode::Off,
            names: pattern.names,
        });
        Ok(())
    }

    /// The place of a pattern that was inserted before, of the same host.
    fn place_of(&self, text: &str, all: &[RouteSpec], route: &RouteSpec) -> Option<usize> {
        self.places.iter().position(|routes| {
            let first = &all[routes[0]];
            first.host == route.host && Pattern::parse(&first.path).is_ok_and(|pattern| pattern.text == text)
        })
    }

    /// A pattern that ends in a rest also matches where the rest is empty, unless another route is there.
    fn add_empty_rests(&mut self, all: &[RouteSpec]) {
        for (place, routes) in self.places.iter().enumerate() {
            let first = &all[routes[0]];
            let Some(stem) = first.path.find("{*").map(|at| &first.path[..at]) else { continue };
            let Ok(pattern) = Pattern::parse(stem) else { continue };
            let tree = match &first.host {
                Some(host) => self.hosts.get_mut(host),
                None => Some(&mut self.everywhere),
            };
            let Some(tree) = tree else { continue };
            let resolved = pattern.text.strip_suffix('/').filter(|stem| !stem.is_empty());
            for text in [Some(pattern.text.as_str()), resolved].into_iter().flatten() {
                // Occupied: that route is the more specific one.
                let _ = tree.insert(text, place);
            }
        }
    }

    /// Finds the route of a request.
    ///
    /// # Errors
    /// [`NoRoute`] when none matches, or when it depends on who reads the path.
    pub fn find(&self, host: Option<&str>, path: &str, method: &Method) -> Result<usize, NoRoute> {
        let resolved = resolve(path);
        let place = self.at(host, &resolved).map(|found| *found.value).ok_or(NoRoute::NotFound)?;
        if matches!(resolved, Cow::Owned(_)) && self.at(host, path).is_some_and(|received| *received.value != place) {
            return Err(NoRoute::Ambiguous);
        }
        // Upstreams differ in what else they decode: no spelling may lead one of them to what is protected elsewhere.
        let is_protected = |read: &String| {
            self.at(host, read).is_some_and(|found| *found.value != place && self.protects(*found.value, method))
        };
        if read_otherwise(path).iter().any(is_protected) {
            return Err(NoRoute::Ambiguous);
        }
        let routes = &self.places[place];
        Ok(routes.iter().copied().find(|&route| self.routes[route].methods.protect(method)).unwrap_or(routes[0]))
    }

    fn protects(&self, place: usize, method: &Method) -> bool {
        self.places[place].iter().any(|&route| {
            let route = &self.routes[route];
            route.is_on && route.methods.protect(method)
        })
    }

    /// The parameters of a path of this route; `None` when the path is another one's.
    pub fn params_of(&self, route: usize, host: Option<&str>, path: &str) -> Option<PathParams> {
        let resolved = resolve(path);
        let found = self.at(host, &resolved).filter(|found| self.places[*found.value].contains(&route))?;
        let values = found.params.iter().map(|(_, value)| value.to_owned());
        Some(PathParams(self.routes[route].names.iter().cloned().zip(values).collect()))
    }

    fn at<'p>(&self, host: Option<&str>, path: &'p str) -> Option<matchit::Match<'_, 'p, &usize>> {
        let tree = host.and_then(|host| self.hosts.get(host));
        tree.and_then(|tree| tree.at(path).ok()).or_else(|| self.everywhere.at(path).ok())
    }
}

/// Whether no method is protected by both.
pub fn disjoint(one: &Methods, other: &Methods) -> bool {
    match (one, other) {
        (Methods::Only(one), Methods::Only(other)) => !one.iter().any(|method| other.contains(method)),
        (Methods::AllUnsafe, _) | (_, Methods::AllUnsafe) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(host: Option<&str>, path: &str, methods: &[Method], upstream: &str) -> RouteSpec {
        let policy = Policy { methods: Methods::Only(methods.to_vec()), ..Policy::default() };
        let upstream = UpstreamSpec { name: upstream.into(), ..UpstreamSpec::example() };
        RouteSpec {
            host: host.map(Arc::from),
            path: path.into(),
            policy: Arc::new(policy),
            upstream: Arc::new(upstream),
        }
    }

    fn router(routes: &[RouteSpec]) -> Router {
        Router::new(routes).unwrap_or_else(|(index, error)| panic!("route {index}: {error}"))
    }

    fn route(router: &Router, host: Option<&str>, path: &str) -> Result<usize, NoRoute> {
        router.find(host, path, &Method::POST)
    }

    #[test]
    fn the_most_specific_route_wins_and_hosts_come_first() {
        let post = [Method::POST];
        let router = router(&[
            spec(None, "/{*rest}", &post, "u"),
            spec(None, "/v1/payments/{id}", &post, "u"),
            spec(None, "/v1/payments", &post, "u"),
            spec(Some("api.example"), "/v1/{*rest}", &post, "u"),
        ]);
        assert_eq!(route(&router, None, "/v1/payments"), Ok(2));
        assert_eq!(route(&router, None, "/v1/payments/7"), Ok(1));
        assert_eq!(route(&router, None, "/"), Ok(0));
        assert_eq!(route(&router, Some("api.example"), "/v1/payments"), Ok(3));
        assert_eq!(route(&router, Some("api.example"), "/v1/"), Ok(3));
        assert_eq!(route(&router, Some("api.example"), "/v1"), Ok(3));
        assert_eq!(route(&router, Some("api.example"), "/v2"), Ok(0));
    }

    #[test]
    fn a_spelling_cannot_walk_around_a_route() {
        let post = [Method::POST];
        let both = router(&[spec(None, "/v1/payments", &post, "u"), spec(None, "/{*rest}", &post, "u")]);
        for path in [
            "/v1//payments",
            "/v1/./payments",
            "/x/../v1/payments",
            "/v1/%70ayments",
            "/x/%2e%2e/v1/payments",
            "/v1/payments/",
        ] {
            assert_eq!(route(&both, None, path), Err(NoRoute::Ambiguous), "{path}");
        }
        // What only some readers take for the protected path is as ambiguous; a method that is not protected goes on.
        for path in [
            "/v1%2Fpayments",
            "/v1/payments;x=1",
            "/v1%5Cpayments",
            "/v1/payments;x%2F..",
            "/v1/payments/;%2F..",
            "/v1/payments//..",
        ] {
            assert_eq!(route(&both, None, path), Err(NoRoute::Ambiguous), "{path}");
            assert_eq!(both.find(None, path, &Method::GET), Ok(1), "{path}");
        }
        assert_eq!(route(&both, None, "/v1/other;x=1"), Ok(1));
        let alone = router(&[spec(None, "/v1/payments", &post, "u")]);
        assert_eq!(route(&alone, None, "/v1/%70ayments"), Ok(0));
        assert_eq!(route(&alone, None, "/v2"), Err(NoRoute::NotFound));
    }

    #[test]
    fn routes_share_a_path_by_method() {
        let router = router(&[spec(None, "/a", &[Method::POST], "u"), spec(None, "/a", &[Method::PUT], "u")]);
        let find = |method| router.find(None, "/a", &method);
        assert_eq!(find(Method::POST), Ok(0));
        assert_eq!(find(Method::PUT), Ok(1));
        assert_eq!(find(Method::GET), Ok(0));
    }

    #[test]
    fn collisions_name_the_other_route() {
        let collision = |one: RouteSpec, other: RouteSpec| Router::new(&[one, other]).err();
        let post = [Method::POST];
        let with_first = Some((1, RouteError::Collision { other: 0 }));
        assert_eq!(collision(spec(None, "/a/{x}", &post, "u"), spec(None, "/a/{y}", &post, "u")), with_first);
        assert_eq!(collision(spec(None, "/a", &post, "u"), spec(None, "/a", &[Method::PUT], "v")), with_first);
        assert_eq!(collision(spec(None, "/a", &post, "u"), spec(Some("h"), "/a", &post, "u")), None);
        assert!(matches!(Router::new(&[spec(None, "/a{", &post, "u")]).err(), Some((0, RouteError::BadPattern(_)))));
    }

    #[test]
    fn parameters_keep_their_own_names() {
        let router = router(&[
            spec(None, "/t/{tenant}/a/{id}", &[Method::POST], "u"),
            spec(None, "/t/{who}/b", &[Method::POST], "u"),
        ]);
        let params = router.params_of(0, None, "/t/acme/a/%37").expect("its path").0;
        assert_eq!(params, [("tenant".to_owned(), "acme".to_owned()), ("id".to_owned(), "7".to_owned())]);
        let params = router.params_of(1, None, "/t/acme/b").expect("its path").0;
        assert_eq!(params, [("who".to_owned(), "acme".to_owned())]);
        assert!(router.params_of(0, None, "/t/acme/b").is_none());
    }
}
