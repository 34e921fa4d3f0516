//! A plugin that passed admission: its calls, each in a fresh store within its limits, and what they cost.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use wasmtime::{Store, Trap};

use super::allowance::Want;
use super::bindings::extraction::ExtractionConfig;
use super::bindings::formatting::FormatterConfig;
use super::bindings::selection_policy::PolicyConfig;
use super::bindings::types;
use super::cost::Costs;
use super::engine::PluginEngine;
use super::error::{CallSite, Fault, PluginError};
use super::limits::{CallState, Limits};
use super::registry::PluginPackage;
use super::text::make_plain;
use super::{PluginIdentity, failed};

/// Characters of a plugin's own error that are told.
const MAX_ERROR_CHARS: usize = 1000;

/// A configuration that the operator's settings for a plugin travel in.
pub(super) trait TakesSettings {
    fn settings(&mut self) -> &mut Vec<(String, String)>;
}

impl TakesSettings for ExtractionConfig {
    fn settings(&mut self) -> &mut Vec<(String, String)> {
        &mut self.settings
    }
}

impl TakesSettings for FormatterConfig {
    fn settings(&mut self) -> &mut Vec<(String, String)> {
        &mut self.settings
    }
}

impl TakesSettings for PolicyConfig {
    fn settings(&mut self) -> &mut Vec<(String, String)> {
        &mut self.settings
    }
}

/// What the three kinds of plugin have in common.
pub(super) struct Admitted {
    pub(super) identity: PluginIdentity,
    pub(super) limits: Limits,
    /// Whose run calls it, for messages.
    pub(super) tenant: Option<String>,
    gets_settings: bool,
    engine: Arc<PluginEngine>,
    costs: Mutex<Costs>,
}

impl Admitted {
    pub(super) fn new(engine: &Arc<PluginEngine>, package: &PluginPackage, limits: Limits) -> Self {
        Self {
            identity: package.into(),
            limits,
            tenant: None,
            gets_settings: package.allowance.wants.contains(&Want::Settings),
            engine: engine.clone(),
            costs: Mutex::default(),
        }
    }

    /// `config`, without the settings where the plugin gets none.
    pub(super) fn permitted<'a, C: Clone + TakesSettings>(&self, config: &'a C) -> Cow<'a, C> {
        let mut config = Cow::Borrowed(config);
        if !self.gets_settings {
            config.to_mut().settings().clear();
        }
        config
    }

    pub(super) fn costs(&self) -> Costs {
        *self.lock_costs()
    }

    fn lock_costs(&self) -> MutexGuard<'_, Costs> {
        self.costs.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn site(&self, function: &'static str, batch: Option<usize>) -> CallSite {
        CallSite { plugin: self.identity.name.clone(), tenant: self.tenant.clone(), function, batch }
    }

    /// Runs one call in a fresh store, measures it and tells the failures apart. Instantiation is part of it: a
    /// component's start functions run within the same limits.
    ///
    /// # Errors
    /// [`PluginError::Call`].
    pub(super) fn call<T>(
        &self,
        site: &CallSite,
        call: impl FnOnce(&mut Store<CallState>) -> wasmtime::Result<Result<T, types::PluginError>>,
    ) -> Result<T, PluginError> {
        let start = Instant::now();
        let mut store = Store::new(self.engine.runtime(), CallState::new(self.limits, site.clone()));
        store.limiter(|state| state);
        store.set_epoch_deadline(self.limits.deadline_ticks());
        store.set_hostcall_fuel(self.limits.output_bytes);
        let outcome = match self.limits.fuel.map(|fuel| store.set_fuel(fuel)) {
            Some(Err(error)) => Err(error),
            Some(Ok(())) | None => call(&mut store),
        };
        let outcome = match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(own)) => Err(Fault::Plugin(printable(own))),
            Err(error) => Err(self.fault(&error, store.data())),
        };
        let fuel = self.limits.fuel.and_then(|fuel| Some(fuel - store.get_fuel().ok()?));
        let state = store.data();
        state.log.close();
        let cost = state.cost(start.elapsed(), fuel);
        drop(store);
        self.lock_costs().add(cost);
        self.engine.add_time(start.elapsed());
        outcome.map_err(|fault| failed(site.clone(), fault))
    }

    fn fault(&self, error: &wasmtime::Error, state: &CallState) -> Fault {
        if let Some(fault) = state.refused() {
            return fault;
        }
        let root = error.root_cause().to_string();
        let root = root.trim_start_matches("wasm trap: ");
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => return Fault::Deadline { limit: self.limits.deadline },
            Some(Trap::OutOfFuel) => return Fault::Fuel { limit: self.limits.fuel.unwrap_or(0) },
            Some(Trap::StackOverflow) => return Fault::Stack { limit: self.limits.stack_bytes },
            Some(Trap::UnreachableCodeReached) => {
                return Fault::Trap { what: format!("{root} (a panic shows as this)") };
            }
            // A Rust or C guest keeps a second stack in linear memory, and runs off its low end.
            Some(Trap::MemoryOutOfBounds) => {
                return Fault::Trap { what: format!("{root} (possibly a stack overflow)") };
            }
            Some(_) => return Fault::Trap { what: root.to_owned() },
            None => {}
        }
        // The runtime's types for these are private; their texts are all there is.
        if root.contains("fuel allocated for hostcalls") {
            Fault::OutputLimit { limit: self.limits.output_bytes }
        } else if let Some(counted) = root.strip_prefix("resource limit exceeded: ") {
            let (what, limit) = match counted.split(' ').next() {
                Some("table") => ("tables", Limits::TABLES),
                Some("memory") => ("memories", Limits::MEMORIES),
                _ => ("instances", Limits::INSTANCES),
            };
            Fault::Parts { what, limit }
        } else if error.is::<wasmtime::WasmBacktrace>() {
            Fault::Trap { what: root.to_owned() }
        } else {
            // Lifting refuses a bad discriminant, a pointer past the end or text that is not UTF-8.
            Fault::InvalidOutput { what: root.to_owned() }
        }
    }
}

fn printable(error: types::PluginError) -> types::PluginError {
    let plain = |mut text: String| {
        make_plain(&mut text, MAX_ERROR_CHARS);
        text
    };
    match error {
        types::PluginError::InvalidItem((index, why)) => types::PluginError::InvalidItem((index, plain(why))),
        types::PluginError::Configuration(what) => types::PluginError::Configuration(plain(what)),
        types::PluginError::Unsupported(what) => types::PluginError::Unsupported(plain(what)),
        types::PluginError::Internal(what) => types::PluginError::Internal(plain(what)),
    }
}
