//! Makes of a configuration what requests are answered with.

use std::sync::Arc;

use secrecy::ExposeSecret;

use super::AppError;
use super::observe::Telemetry;
use crate::admin::{AdminRoute, Desk};
use crate::config::Config;
use crate::http::budget::Budget;
use crate::http::drain::Drain;
use crate::http::layer::IdempotencyLayer;
use crate::http::spool::Spool;
use crate::proxy::generation::{Generation, Layers};
use crate::proxy::router::{RouteSpec, Router};
use crate::telemetry::metrics::Metrics;

/// What all generations share.
pub(super) struct Workshop {
    pub(super) budget: Budget,
    pub(super) drain: Drain,
    pub(super) metrics: Metrics,
    /// Another one where a reload changes its folder or its size.
    pub(super) spool: Spool,
}

impl Workshop {
    /// Makes a generation; nothing of it is in force yet.
    pub(super) fn generation(&self, config: &Config, spool: &Spool) -> Result<Generation, AppError> {
        let router = Router::new(&config.routes).map_err(|(index, error)| AppError::Route(index, error))?;
        let routes: Arc<[RouteSpec]> = config.routes.clone().into();
        let observer = Arc::new(Telemetry::new(&routes, &self.metrics, config.log.access));
        Ok(Generation {
            listener: config.listener.clone(),
            layers: self.layers(&routes, &observer, spool),
            routes,
            router: Arc::new(router),
            observer,
        })
    }

    fn layers(&self, routes: &Arc<[RouteSpec]>, observer: &Arc<Telemetry>, spool: &Spool) -> Layers {
        let (routes, observer) = (routes.clone(), observer.clone());
        let (budget, drain, spool) = (self.budget.clone(), self.drain.clone(), spool.clone());
        Arc::new(move |ledger| {
            let layer = |(index, route): (usize, &RouteSpec)| {
                let observer = observer.clone();
                IdempotencyLayer::new(ledger.clone())
                    .policy(route.policy.clone())
                    .budget(budget.clone())
                    .spool(spool.clone())
                    .drain(drain.clone())
                    .on_observed(move |observation| observer.would(index, observation.would))
            };
            routes.iter().enumerate().map(layer).collect()
        })
    }
}

/// What the admin listener is to know of a configuration.
pub(super) fn desk(config: &Config, generation: &Generation) -> Desk {
    let routes = generation.routes.iter().enumerate().map(|(index, route)| {
        let (router, host) = (generation.router.clone(), route.host.clone());
        AdminRoute {
            name: route.policy.terms.route.to_string(),
            policy: route.policy.clone(),
            params: Box::new(move |path| router.params_of(index, host.as_deref(), path)),
        }
    });
    let token = config.admin.as_ref().and_then(|admin| admin.token.as_ref());
    Desk { routes: routes.collect(), token: token.map(|token| token.expose_secret().to_owned()) }
}
