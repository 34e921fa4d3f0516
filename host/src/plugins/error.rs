//! What can go wrong with a plugin, whose fault it is, and what to do.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::allowance::Want;
use super::bindings::types;
use super::limits::Limits;
use super::manifest::PluginKind;
use super::signature::SigningError;
use super::trust::TrustError;

/// A plugin that could not be loaded, or a call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The component's file could not be read.
    #[error("cannot read plugin `{}` ({source}); name a `.wasm` file, or a built-in plugin", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No built-in plugin has this name.
    #[error(
        "no built-in {kind} is called `{name}`; built in: {known}; a plugin of your own is named by the path of its `.wasm` file"
    )]
    Unknown {
        /// The name asked for.
        name: String,
        /// The kind wanted.
        kind: PluginKind,
        /// Names of the built-in plugins of that kind.
        known: String,
    },
    /// `plugin.toml` is not valid.
    #[error("`{}` is not a plugin manifest: {what}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// The parser's text, with line and column.
        what: String,
    },
    /// The plugin is of another kind, WIT version or agent type than the run needs.
    #[error("plugin `{plugin}` does not fit this run: {what}")]
    Incompatible {
        /// The plugin.
        plugin: String,
        /// What differs, and what to do.
        what: String,
    },
    /// The plugin is not the one that was meant, or wants more than it may have.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A plugin could not be signed.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The bytes are not a WebAssembly component.
    #[error(
        "plugin `{plugin}` is not a WebAssembly component: {what}; build it as a component (core module + `wit-component`), not as a plain module"
    )]
    NotAComponent {
        /// The plugin.
        plugin: String,
        /// The compiler's text.
        what: String,
    },
    /// The component lacks the interface that its kind must export.
    #[error(
        "plugin `{plugin}` does not export `{export}`, which every {kind} must; it exports: {found}; name another plugin, or build it for the world `{kind}`"
    )]
    MissingExport {
        /// The plugin.
        plugin: String,
        /// The kind wanted.
        kind: PluginKind,
        /// The interface wanted.
        export: &'static str,
        /// What is there.
        found: String,
    },
    /// The component has too many bytes to be compiled.
    #[error(
        "plugin `{plugin}` is a component of {bytes} bytes, more than the cap of {limit}; build it without debug information, or raise `plugins.component_mib`"
    )]
    TooLarge {
        /// The plugin.
        plugin: String,
        /// Its size.
        bytes: usize,
        /// The cap.
        limit: usize,
    },
    /// One of the component's functions has too many bytes to be compiled.
    #[error(
        "plugin `{plugin}` has a function of {bytes} bytes, more than the {} that one may have: its compilation would take minutes and gigabytes; split it",
        Limits::FUNCTION_BYTES
    )]
    LargeFunction {
        /// The plugin.
        plugin: String,
        /// The function's size.
        bytes: usize,
    },
    /// The component is made of too many parts to be compiled.
    #[error(
        "plugin `{plugin}` has more than {limit} {what}: its compilation would take minutes and gigabytes; build it of fewer"
    )]
    ManyParts {
        /// The plugin.
        plugin: String,
        /// `functions`, or `modules and components`.
        what: &'static str,
        /// The cap.
        limit: usize,
    },
    /// The component wants something of the host that it could have, and was not given.
    #[error(
        "plugin `{plugin}` imports `{import}`, which it was not granted; its `plugin.toml` has to say `wants = [\"{want}\"]`, and the operator to grant `{want}`{}",
        if *want == Want::Wasi { "; or build it with WASI stubbed out" } else { "" }
    )]
    NotGranted {
        /// The plugin.
        plugin: String,
        /// The interface wanted.
        import: String,
        /// What would give it.
        want: Want,
    },
    /// The component wants something of the host that no plugin gets.
    #[error(
        "plugin `{plugin}` imports `{import}`, and plugins get no imports (no files, network, clock or environment); build it for `wasm32-unknown-unknown`, or stub WASI out"
    )]
    UnknownImport {
        /// The plugin.
        plugin: String,
        /// The interface wanted.
        import: String,
    },
    /// A call failed.
    #[error("{site} {fault}")]
    Call {
        /// Which call of which plugin.
        site: Box<CallSite>,
        /// How it failed.
        fault: Fault,
    },
    /// The WebAssembly runtime itself did not start: not the plugin's fault.
    #[error("the plugin runtime did not start: {what}")]
    Runtime {
        /// The runtime's text.
        what: String,
    },
}

/// Which call of which plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSite {
    /// The plugin's name.
    pub plugin: String,
    /// Whose run it is, where it is a tenant's.
    pub tenant: Option<String>,
    /// The WIT function: `extract`.
    pub function: &'static str,
    /// The batch, from 1; none where the function is called once a run.
    pub batch: Option<usize>,
}

impl fmt::Display for CallSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin `{}`", self.plugin)?;
        if let Some(tenant) = &self.tenant {
            write!(f, " of tenant `{tenant}`")?;
        }
        write!(f, ", call `{}`", self.function)?;
        match self.batch {
            Some(batch) => write!(f, " of batch {batch}:"),
            None => write!(f, ":"),
        }
    }
}

/// How a call failed.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// It ran too long.
    #[error(
        "stopped at its deadline of {limit:?}; the plugin loops or is too slow: fix it, or raise `plugins.deadline_ms`"
    )]
    Deadline {
        /// The deadline.
        limit: Duration,
    },
    /// It wanted too much memory.
    #[error(
        "wanted {wanted} bytes of memory, more than its cap of {limit}; the plugin leaks or needs smaller batches: fix it, or raise `plugins.memory_mib`"
    )]
    Memory {
        /// Bytes asked for.
        wanted: usize,
        /// The cap in bytes.
        limit: usize,
    },
    /// It wanted too large a table.
    #[error(
        "wanted a table of {wanted} elements, more than its cap of {limit}; fix the plugin, or raise `plugins.table_elements`"
    )]
    Table {
        /// Elements asked for.
        wanted: usize,
        /// The cap.
        limit: usize,
    },
    /// It did too much.
    #[error(
        "used up its fuel of {limit} instructions; the plugin loops or does too much in one call: fix it, or raise `plugins.fuel`"
    )]
    Fuel {
        /// The cap.
        limit: u64,
    },
    /// It recursed too deeply.
    #[error(
        "used up its stack of {} KiB; the plugin recurses without end or too deeply: fix it, or raise `plugins.stack_kib`",
        limit >> 10
    )]
    Stack {
        /// The cap in bytes.
        limit: usize,
    },
    /// It is made of too many parts.
    #[error("is made of more than {limit} {what}; build it of fewer modules")]
    Parts {
        /// `instances`, `tables` or `memories`.
        what: &'static str,
        /// The cap.
        limit: usize,
    },
    /// It handed back too much.
    #[error(
        "handed back more than {limit} bytes; the plugin repeats its output: fix it, or raise `plugins.output_mib`"
    )]
    OutputLimit {
        /// The cap in bytes.
        limit: usize,
    },
    /// It handed back too many examples, or reasons for having none.
    #[error(
        "handed back {given} {what} for {spans} spans, more than its cap of {limit}; the plugin repeats its output: fix it, or raise `plugins.records_per_span`"
    )]
    Records {
        /// `examples` or `skipped spans`.
        what: &'static str,
        /// How many.
        given: usize,
        /// Spans of the batch.
        spans: usize,
        /// The cap.
        limit: usize,
    },
    /// It trapped.
    #[error("trapped: {what}; fix the plugin, or use another")]
    Trap {
        /// The runtime's text.
        what: String,
    },
    /// It handed back something that breaks the contract of its WIT.
    #[error("handed back invalid output: {what}; fix the plugin, or use another")]
    InvalidOutput {
        /// The broken rule.
        what: String,
    },
    /// It said itself that it could not do the call.
    #[error("{}", own(.0))]
    Plugin(types::PluginError),
    /// The runtime failed: not the plugin's fault.
    #[error("the plugin runtime failed: {what}")]
    Runtime {
        /// The runtime's text.
        what: String,
    },
}

impl Fault {
    /// The word for it in a table of reasons.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Deadline { .. } => "deadline",
            Self::Fuel { .. } => "fuel",
            Self::Memory { .. } => "memory",
            Self::Table { .. } => "table",
            Self::Stack { .. } => "stack",
            Self::Parts { .. } => "parts",
            Self::OutputLimit { .. } => "output",
            Self::Records { .. } => "records",
            Self::Trap { .. } => "trap",
            Self::InvalidOutput { .. } => "invalid output",
            Self::Plugin(_) => "refused",
            Self::Runtime { .. } => "runtime",
        }
    }
}

impl PluginError {
    /// The row of the run's table where a batch is left out for this; none for what is no plugin's failure in a call.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Call { site, fault } if !self.is_ours() => {
                Some(format!("plugin `{}` failed: {}", site.plugin, fault.name()))
            }
            _ => None,
        }
    }

    /// True where the defect is in Tunesmith or its runtime, not in a plugin or its configuration.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Runtime { .. } | Self::Call { fault: Fault::Runtime { .. }, .. })
    }
}

fn own(error: &types::PluginError) -> String {
    match error {
        types::PluginError::InvalidItem((index, why)) => format!("the plugin refused item {index} of the batch: {why}"),
        types::PluginError::Configuration(what) => format!("the plugin refused its configuration: {what}"),
        types::PluginError::Unsupported(what) => format!("the plugin does not serve this run: {what}"),
        types::PluginError::Internal(what) => format!("the plugin reports a defect of its own: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_names_plugin_function_batch_fault_and_remedy() {
        let site =
            CallSite { plugin: "spinner".into(), tenant: Some("acme".into()), function: "format", batch: Some(3) };
        let fault = Fault::Deadline { limit: Duration::from_millis(250) };
        assert_eq!(
            PluginError::Call { site: Box::new(site), fault }.to_string(),
            "plugin `spinner` of tenant `acme`, call `format` of batch 3: stopped at its deadline of 250ms; the plugin loops or is too \
             slow: fix it, or raise `plugins.deadline_ms`"
        );
    }

    #[test]
    fn only_a_runtime_failure_is_ours() {
        let site = Box::new(CallSite { plugin: "p".into(), tenant: None, function: "decide", batch: None });
        let trap = PluginError::Call { site: site.clone(), fault: Fault::Trap { what: "x".into() } };
        let runtime = PluginError::Call { site, fault: Fault::Runtime { what: "x".into() } };
        assert!(!trap.is_ours() && runtime.is_ours());
    }
}
