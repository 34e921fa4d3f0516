//! The WebAssembly runtime: one engine a process, a fresh store and instance for every call.
//!
//! A fresh instance costs 20 us with the pooling allocator; for that, no state of one batch, or of one tenant,
//! reaches the next, and a call that trapped leaves nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use wasmtime::component::{InstancePre, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, Trap};

use super::admission;
use super::bindings::types;
use super::cache::ComponentCache;
use super::error::{CallSite, Fault, PluginError};
use super::limits::{CallState, Limits, Refused};
use super::manifest::PluginKind;
use super::registry::PluginPackage;

/// The engine that all plugins of a run share.
pub struct PluginEngine {
    engine: Engine,
    /// Empty: no plugin gets an import.
    linker: Linker<CallState>,
    cache: ComponentCache,
    limits: Limits,
    pooled: bool,
    nanos_in_calls: AtomicU64,
}

impl PluginEngine {
    /// Starts the runtime and its epoch clock.
    ///
    /// # Errors
    /// [`PluginError::Runtime`] where the host can not run WebAssembly at all.
    pub fn new(limits: Limits) -> Result<Arc<Self>, PluginError> {
        // Small boards have too little address space for the pool (wasmtime #8607): probe, else allocate on demand.
        let (engine, pooled) = match Engine::new(&config(Some(limits))) {
            Ok(engine) => (engine, true),
            Err(error) => {
                tracing::debug!("no pooling allocator here, plugins are allocated on demand: {error:#}");
                let runtime = |error| PluginError::Runtime { what: format!("{error:#}") };
                (Engine::new(&config(None)).map_err(runtime)?, false)
            }
        };
        start_epoch_clock(&engine);
        let cache = ComponentCache::for_user(&engine);
        let linker = Linker::new(&engine);
        Ok(Arc::new(Self { engine, linker, cache, limits, pooled, nanos_in_calls: AtomicU64::new(0) }))
    }

    /// Wall time spent in plugin calls so far: instantiation, copies in and out, and the guest's own work.
    pub fn time_in_calls(&self) -> Duration {
        Duration::from_nanos(self.nanos_in_calls.load(Ordering::Relaxed))
    }

    /// The caps on every call.
    pub fn limits(&self) -> &Limits {
        &self.limits
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
    /// [`PluginError::NotAComponent`], [`PluginError::UnknownImport`], [`PluginError::MissingExport`] or, where an
    /// export has other types than the WIT, [`PluginError::Incompatible`].
    pub(super) fn admit(
        &self,
        package: &PluginPackage,
        kind: PluginKind,
    ) -> Result<InstancePre<CallState>, PluginError> {
        let plugin = &package.manifest.name;
        let component = self
            .cache
            .load_or_compile(&self.engine, &package.wasm, &package.digest)
            .map_err(|error| admission::not_compiled(plugin, &package.wasm, &error))?;
        admission::check(&self.engine, plugin, &component, kind)?;
        self.linker.instantiate_pre(&component).map_err(|error| admission::incompatible(plugin, &error))
    }

    /// Runs one call in a fresh store, measures it and tells the failures apart.
    ///
    /// # Errors
    /// [`PluginError::Call`].
    pub(super) fn call<T>(
        &self,
        site: CallSite,
        call: impl FnOnce(&mut Store<CallState>) -> wasmtime::Result<Result<T, types::PluginError>>,
    ) -> Result<T, PluginError> {
        let start = Instant::now();
        let mut store = Store::new(&self.engine, CallState::new(self.limits));
        store.limiter(|state| state);
        store.set_epoch_deadline(self.limits.deadline_ticks());
        store.set_hostcall_fuel(self.limits.output_bytes);
        let outcome = call(&mut store);
        let fault = match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(own)) => Err(Fault::Plugin(own)),
            Err(error) => Err(self.fault(&error, store.data())),
        };
        drop(store);
        self.nanos_in_calls.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        fault.map_err(|fault| PluginError::Call { site, fault })
    }

    fn fault(&self, error: &wasmtime::Error, state: &CallState) -> Fault {
        match state.refused {
            Some(Refused::Memory(wanted)) => return Fault::Memory { wanted, limit: self.limits.memory_bytes },
            Some(Refused::Table(wanted)) => return Fault::Table { wanted, limit: self.limits.table_elements },
            None => {}
        }
        let root = error.root_cause().to_string();
        let root = root.trim_start_matches("wasm trap: ");
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Fault::Deadline { limit: self.limits.deadline },
            Some(Trap::StackOverflow) => Fault::Stack,
            Some(Trap::UnreachableCodeReached) => Fault::Trap { what: format!("{root} (a panic shows as this)") },
            // A Rust or C guest keeps a second stack in linear memory, and runs off its low end.
            Some(Trap::MemoryOutOfBounds) => Fault::Trap { what: format!("{root} (possibly a stack overflow)") },
            Some(_) => Fault::Trap { what: root.to_owned() },
            // The runtime's type for this is private; its text is all there is.
            None if root.contains("fuel allocated for hostcalls") => {
                Fault::OutputLimit { limit: self.limits.output_bytes }
            }
            // Lifting refuses a bad discriminant, a pointer past the end or text that is not UTF-8.
            None if error.is::<wasmtime::WasmBacktrace>() => Fault::Trap { what: root.to_owned() },
            None => Fault::InvalidOutput { what: root.to_owned() },
        }
    }
}

/// The lower-case hex SHA-256 of a component.
pub(super) fn digest(wasm: &[u8]) -> String {
    super::hex(&Sha256::digest(wasm))
}

fn config(pool: Option<Limits>) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true).epoch_interruption(true);
    if let Some(limits) = pool {
        // Calls run one at a time; a component of Python or JavaScript is some thirty core instances.
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(4)
            .max_component_instance_size(8 << 20)
            .total_core_instances(128)
            .max_core_instance_size(8 << 20)
            .max_core_instances_per_component(64)
            .total_memories(8)
            .max_memory_size(limits.memory_bytes)
            // Cleared in place, not mapped anew: 10,056 spans take 54 ms in plugin calls instead of 60.
            .linear_memory_keep_resident(4 << 20)
            .total_tables(128)
            .max_tables_per_module(20)
            .max_tables_per_component(64)
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
