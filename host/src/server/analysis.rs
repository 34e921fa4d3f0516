//! `GET /v1/analysis?agent_type=A&project=P`: what a tenant's spans are good for, as `tunesmith analyze` tells it: by the
//! tenant's configuration and plugins as their files are now.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// Answers questions, one at a time for each tenant.
pub(super) struct Analyst {
    run_config: Box<RunConfigOf>,
    tenants: HashMap<String, Desk>,
}

/// What one tenant has of it.
struct Desk {
    turn: Arc<Semaphore>,
    /// Its limits are those of the first plugins: one that wants more later gets them when the server starts anew.
    plugins: OnceLock<PluginHost>,
}

/// An analysis that is under way ends after its batch where the server ends.
static STOPPING: AtomicBool = AtomicBool::new(false);

impl Analyst {
    pub(super) fn new<'a>(run_config: Box<RunConfigOf>, tenants: impl Iterator<Item = &'a str>) -> Self {
        let desk = || Desk { turn: Arc::new(Semaphore::new(1)), plugins: OnceLock::new() };
        Self { run_config, tenants: tenants.map(|tenant| (tenant.to_owned(), desk())).collect() }
    }

    /// Lets what is under way end soon.
    pub(super) fn stop() {
        STOPPING.store(true, Ordering::Relaxed);
    }

    fn turn_of(&self, tenant: &str) -> Option<Arc<Semaphore>> {
        self.tenants.get(tenant).map(|desk| Arc::clone(&desk.turn))
    }

    fn analyze(&self, tenant: &str, question: &Question) -> Result<Analysis, HostError> {
        let mut config = (self.run_config)(tenant, question)?;
        // What is there is analyzed; to fill the store is not what was asked.
        config.telemetry.imports.clear();
        config.telemetry.phoenix = None;
        let progress = Progress::silent().stopped_by(&STOPPING);
        let source = pipeline::open_source(&config, &progress)?;
        let made;
        let plugins = match self.tenants.get(tenant) {
            Some(desk) => match desk.plugins.get() {
                Some(plugins) => plugins,
                None => {
                    let plugins = plugin_host(&config)?;
                    desk.plugins.get_or_init(|| plugins)
                }
            },
            None => {
                made = plugin_host(&config)?;
                &made
            }
        };
        let extractor = plugins.extractor(&config.resolution(PluginKind::Extractor))?;
        let policy = plugins.policy(&config.resolution(PluginKind::Policy))?;
        pipeline::analyze(&config, &source, &extractor, &policy, &progress)
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
    let id = tenant.access.tenant_id.clone();
    drop(tenant);
    let turn = shared.analyst.turn_of(&id).and_then(|turn| turn.try_acquire_owned().ok());
    let turn =
        turn.ok_or_else(|| Refusal::unavailable("another analysis is under way: ask again when it has ended"))?;
    let analysis = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        shared.analyst.analyze(&id, &question)
    });
    analysis.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())).map_err(|error| {
        let status = match error.exit_code() {
            1 => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(status, error.describe())
    })
}
