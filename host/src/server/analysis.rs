//! `GET /v1/analysis?agent_type=A&project=P`: what a tenant's spans are good for, as `tunesmith analyze` tells it: by the
//! tenant's configuration and plugins as their files are now.

use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::Shared;
use super::counters::Counters;
use super::refusal::Refusal;
use crate::config::RunConfig;
use crate::error::HostError;
use crate::pipeline::{self, Analysis};
use crate::plugins::{PluginEngine, PluginHost, PluginKind};
use crate::progress::Progress;
use crate::telemetry::Encoding;

/// What is asked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The agent; none where the configuration names one.
    pub agent_type: Option<String>,
    /// The project; none where the configuration names one, or the store has one only.
    pub project: Option<String>,
}

/// The configuration of a tenant for a question, as its file is now.
pub type RunConfigOf = dyn Fn(&str, &Question) -> Result<RunConfig, HostError> + Send + Sync;

/// What answers the questions of one tenant, one at a time.
pub(super) struct Desk {
    turn: Arc<Semaphore>,
    /// Its limits are those of the first plugins: one that wants more later gets them when the server starts anew.
    plugins: OnceLock<PluginHost>,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), plugins: OnceLock::new() }
    }

    fn analyze(&self, mut config: RunConfig, progress: &Progress) -> Result<Analysis, HostError> {
        // What is there is analyzed; to fill the store is not what was asked.
        config.telemetry.imports.clear();
        config.telemetry.phoenix = None;
        let source = pipeline::open_source(&config, progress)?;
        let plugins = match self.plugins.get() {
            Some(plugins) => plugins,
            None => {
                let plugins = plugin_host(&config)?;
                self.plugins.get_or_init(|| plugins)
            }
        };
        let extractor = plugins.extractor(&config.resolution(PluginKind::Extractor))?;
        let policy = plugins.policy(&config.resolution(PluginKind::Policy))?;
        pipeline::analyze(&config, &source, &extractor, &policy, progress)
    }
}

fn plugin_host(config: &RunConfig) -> Result<PluginHost, HostError> {
    let allowed = |kind| config.resolution(kind).package().map(|package| package.allowance.limits);
    let limits = allowed(PluginKind::Extractor)?.covering(&allowed(PluginKind::Policy)?);
    Ok(PluginHost::new(PluginEngine::new(limits)?))
}

pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    question: Result<Query<Question>, QueryRejection>,
) -> Response {
    analyze(shared.clone(), &headers, question).await.map_or_else(
        |refusal| {
            Counters::add(&shared.counters.refused, 1);
            refusal.response(Some(Encoding::Json))
        },
        |analysis| Json(analysis).into_response(),
    )
}

async fn analyze(
    shared: Arc<Shared>,
    headers: &HeaderMap,
    question: Result<Query<Question>, QueryRejection>,
) -> Result<Analysis, Refusal> {
    let tenant = shared.tenants.of(headers)?;
    let Query(question) = question.map_err(|error| {
        let message = format!("{}: ask for `agent_type` and `project`", error.body_text());
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    })?;
    let turn = Arc::clone(&tenant.desk.turn).try_acquire_owned();
    let turn = turn.map_err(|_| Refusal::unavailable("another analysis is under way: ask again when it has ended"))?;
    let analysis = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let config = (shared.run_config)(&tenant.access.tenant_id, &question)?;
        tenant.desk.analyze(config, &Progress::silent().stopped_by(shared.stopping))
    });
    analysis.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())).map_err(|error| {
        let status = match error.exit_code() {
            1 => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(status, error.describe())
    })
}
