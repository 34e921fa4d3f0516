//! The three plugins of a run, on one engine.

use std::sync::Arc;
use std::time::Duration;

use crate::config::RunConfig;
use crate::plugins::{Extractor, Formatter, Limits, PluginEngine, PluginError, PluginIdentity, PluginKind, Policy};

/// Who extracts, formats and decides.
pub struct RunPlugins {
    /// Spans to examples.
    pub extractor: Extractor,
    /// Examples to records.
    pub formatter: Formatter,
    /// Statistics to a decision.
    pub policy: Policy,
    engine: Arc<PluginEngine>,
}

impl RunPlugins {
    /// Finds, compiles and checks all three, before a span is read.
    ///
    /// # Errors
    /// The first plugin's that does not fit.
    pub fn load(config: &RunConfig) -> Result<Self, PluginError> {
        let engine = PluginEngine::new(config.plugins.limits)?;
        let package = |kind| {
            let mut package = config.resolution(kind).package()?;
            let Limits { deadline, memory_bytes, output_bytes, .. } = package.allowance.limits;
            package.allowance.limits = Limits { deadline, memory_bytes, output_bytes, ..config.plugins.limits };
            Ok::<_, PluginError>(package)
        };
        let extractor = Extractor::load(&engine, &package(PluginKind::Extractor)?)?;
        let formatter = Formatter::load(&engine, &package(PluginKind::Formatter)?)?;
        let policy = Policy::load(&engine, &package(PluginKind::Policy)?)?;
        let tenant = &config.tenant_id;
        Ok(Self {
            extractor: extractor.for_tenant(tenant),
            formatter: formatter.for_tenant(tenant),
            policy: policy.for_tenant(tenant),
            engine,
        })
    }

    /// What `run.json` says of them.
    pub fn identities(&self) -> [&PluginIdentity; 3] {
        [self.extractor.identity(), self.formatter.identity(), self.policy.identity()]
    }

    /// Wall time spent in calls of all three so far.
    pub fn time_in_calls(&self) -> Duration {
        self.engine.time_in_calls()
    }
}
