//! The WebAssembly runtime: one engine a run, which compiles plugins and admits them.
//!
//! A fresh instance costs 20 us with the pooling allocator; for that, no state of one batch, or of one tenant,
//! reaches the next, and a call that trapped leaves nothing behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::admission;
use super::admitted::Admitted;
use super::allowance::Want;
use super::bindings::log;
use super::cache::ComponentCache;
use super::error::PluginError;
use super::limits::{CallState, Limits};
use super::manifest::PluginKind;
use super::registry::PluginPackage;
use super::wasi;

/// The engine that all plugins of a run share.
pub struct PluginEngine {
    engine: Engine,
    cache: ComponentCache,
    limits: Limits,
    pooled: bool,
    nanos_in_calls: AtomicU64,
}

impl PluginEngine {
    /// Starts the runtime and its epoch clock. No plugin gets more than `limits`; whether fuel is counted, and the
    /// stack, are the same for all of them.
    ///
    /// # Errors
    /// [`PluginError::Runtime`] where the host can not run WebAssembly at all.
    pub fn new(limits: Limits) -> Result<Arc<Self>, PluginError> {
        Self::with_cache(limits, ComponentCache::for_user)
    }

    /// As [`PluginEngine::new`], for components that are seen once: what it compiles is not kept.
    ///
    /// # Errors
    /// As there.
    pub fn uncached(limits: Limits) -> Result<Arc<Self>, PluginError> {
        Self::with_cache(limits, |engine| ComponentCache::at(None, engine))
    }

    fn with_cache(limits: Limits, cache: impl FnOnce(&Engine) -> ComponentCache) -> Result<Arc<Self>, PluginError> {
        // Small boards have too little address space for the pool (wasmtime #8607): probe, else allocate on demand.
        let (engine, pooled) = match Engine::new(&config(&limits, true)) {
            Ok(engine) => (engine, true),
            Err(error) => {
                tracing::debug!("no pooling allocator here, plugins are allocated on demand: {error:#}");
                let runtime = |error| PluginError::Runtime { what: format!("{error:#}") };
                (Engine::new(&config(&limits, false)).map_err(runtime)?, false)
            }
        };
        start_epoch_clock(&engine);
        let cache = cache(&engine);
        Ok(Arc::new(Self { engine, cache, limits, pooled, nanos_in_calls: AtomicU64::new(0) }))
    }

    /// Wall time spent in plugin calls so far: instantiation, copies in and out, and the guest's own work.
    pub fn time_in_calls(&self) -> Duration {
        Duration::from_nanos(self.nanos_in_calls.load(Ordering::Relaxed))
    }

    pub(super) fn add_time(&self, took: Duration) {
        self.nanos_in_calls.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// What no plugin gets more of.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn runtime(&self) -> &Engine {
        &self.engine
    }

    /// Where the pooling allocator and the cache of compiled components are used, for `doctor`.
    pub fn describe(&self) -> String {
        let allocator = if self.pooled { "pooling allocator" } else { "allocation on demand" };
        match self.cache.dir() {
            Some(dir) => format!("{allocator}, compiled plugins kept in `{}`", dir.display()),
            None => format!("{allocator}, compiled plugins not kept (no private cache folder)"),
        }
    }

    /// Compiles a plugin and checks its imports and exports: what passes can be instantiated.
    ///
    /// # Errors
    /// [`PluginError::NotAComponent`], [`PluginError::TooLarge`], [`PluginError::LargeFunction`],
    /// [`PluginError::ManyParts`],
    /// [`PluginError::NotGranted`], [`PluginError::UnknownImport`], [`PluginError::MissingExport`] or, where an export has other types than the WIT,
    /// [`PluginError::Incompatible`].
    pub(super) fn admit(
        self: &Arc<Self>,
        package: &PluginPackage,
        kind: PluginKind,
    ) -> Result<(Admitted, InstancePre<CallState>), PluginError> {
        let plugin = &package.manifest.name;
        let limits = package.allowance.limits.within(&self.limits);
        let component = self.compile(plugin, &package.wasm, &package.digest, &limits)?;
        admission::check(&self.engine, plugin, &component, kind, &package.allowance.wants)?;
        let linker = self
            .linker(&package.allowance.wants, &component)
            .map_err(|error| admission::incompatible(plugin, &error))?;
        let instance = linker.instantiate_pre(&component).map_err(|error| admission::incompatible(plugin, &error))?;
        Ok((Admitted::new(self, package, limits), instance))
    }

    /// Compiles a component, or takes it from the cache; `plugin` is for messages.
    ///
    /// # Errors
    /// [`PluginError::TooLarge`], [`PluginError::NotAComponent`] or [`PluginError::Incompatible`].
    pub(super) fn compile(
        &self,
        plugin: &str,
        wasm: &[u8],
        digest: &str,
        limits: &Limits,
    ) -> Result<Component, PluginError> {
        admission::check_size(plugin, wasm, limits)?;
        let component = self.cache.load_or_compile(&self.engine, wasm, digest);
        component.map_err(|error| admission::not_compiled(plugin, wasm, &error))
    }

    /// What of the host a plugin can reach: nothing, but for what was granted.
    fn linker(&self, granted: &BTreeSet<Want>, component: &Component) -> wasmtime::Result<Linker<CallState>> {
        let mut linker = Linker::new(&self.engine);
        if granted.contains(&Want::Log) {
            log::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut CallState| state)?;
        }
        if granted.contains(&Want::Wasi) {
            wasi::add_to_linker(&mut linker, &self.engine, component)?;
        }
        Ok(linker)
    }
}

/// The lower-case hex SHA-256 of a component.
pub fn digest(wasm: &[u8]) -> String {
    super::hex(&Sha256::digest(wasm))
}

fn config(limits: &Limits, pooled: bool) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true).epoch_interruption(true);
    config.consume_fuel(limits.fuel.is_some()).max_wasm_stack(limits.stack_bytes);
    if pooled {
        // Calls run one at a time.
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(4)
            .max_component_instance_size(8 << 20)
            .total_core_instances(128)
            .max_core_instance_size(8 << 20)
            .max_core_instances_per_component(Limits::INSTANCES as u32)
            .total_memories(Limits::MEMORIES as u32)
            .max_memory_size(limits.memory_bytes)
            // Cleared in place, not mapped anew: 10,056 spans take 54 ms in plugin calls instead of 60.
            .linear_memory_keep_resident(4 << 20)
            .total_tables(128)
            .max_tables_per_module(20)
            .max_tables_per_component(Limits::TABLES as u32)
            .table_elements(limits.table_elements);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

/// Advances the epoch every [`Limits::TICK`] until the engine is gone. On an absolute schedule: a sleep overshoots
/// under load, and the ticks it missed are caught up, so that a deadline does not drift.
fn start_epoch_clock(engine: &Engine) {
    let engine = engine.weak();
    std::thread::spawn(move || {
        let mut due = Instant::now();
        loop {
            due += Limits::TICK;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => break,
            }
        }
    });
}
