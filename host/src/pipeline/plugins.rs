//! The three plugins of a run, on one engine.

use std::sync::Arc;
use std::time::Duration;

use crate::config::RunConfig;
use crate::plugins::{
    Allowance, Costs, Extractor, Formatter, PluginEngine, PluginError, PluginIdentity, PluginKind, PluginPackage,
    PluginRef, Policy,
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
        let engine = PluginEngine::new(config.plugins.limits)?;
        let find = |reference: &PluginRef, kind| {
            let mut package = PluginPackage::find(reference, kind, Some(&config.agent_type))?;
            package.allowance = Allowance { wants: package.manifest.wants.clone(), limits: config.plugins.limits };
            Ok::<_, PluginError>(package)
        };
        let extractor = Extractor::load(&engine, &find(&config.plugins.extractor, PluginKind::Extractor)?)?;
        let formatter = Formatter::load(&engine, &find(&config.plugins.formatter, PluginKind::Formatter)?)?;
        let policy = Policy::load(&engine, &find(&config.plugins.policy, PluginKind::Policy)?)?;
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
