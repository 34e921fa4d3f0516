//! The three plugins of a run, on one engine.

use std::sync::Arc;
use std::time::Duration;

use crate::config::RunConfig;
use crate::plugins::{
    Costs, Extractor, Formatter, PluginEngine, PluginError, PluginIdentity, PluginKind, PluginPackage, Policy,
};

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
        let package = |kind| config.resolution(kind).package();
        let (extractor, formatter, policy) =
            (package(PluginKind::Extractor)?, package(PluginKind::Formatter)?, package(PluginKind::Policy)?);
        // Of the engine's own limits, some hold for every plugin: they must leave each what it is allowed.
        let of = |package: &PluginPackage| package.allowance.limits;
        let engine = PluginEngine::new(of(&extractor).covering(&of(&formatter)).covering(&of(&policy)))?;
        let tenant = &config.tenant_id;
        Ok(Self {
            extractor: Extractor::load(&engine, &extractor)?.for_tenant(tenant),
            formatter: Formatter::load(&engine, &formatter)?.for_tenant(tenant),
            policy: Policy::load(&engine, &policy)?.for_tenant(tenant),
            engine,
        })
    }

    /// What `run.json` says of them.
    pub fn identities(&self) -> [&PluginIdentity; 3] {
        [self.extractor.identity(), self.formatter.identity(), self.policy.identity()]
    }

    /// And what their calls took so far.
    pub fn costs(&self) -> [(&PluginIdentity, Costs); 3] {
        [
            (self.extractor.identity(), self.extractor.costs()),
            (self.formatter.identity(), self.formatter.costs()),
            (self.policy.identity(), self.policy.costs()),
        ]
    }

    /// Wall time spent in calls of all three so far.
    pub fn time_in_calls(&self) -> Duration {
        self.engine.time_in_calls()
    }
}
