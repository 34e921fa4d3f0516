//! The plugin host: components in, typed calls out.
//!
//! A plugin is a WebAssembly component without imports, but for those that its [`Allowance`] grants. A [`Resolution`]
//! says which one serves and on whose terms, [`PluginPackage`] is its bytes and manifest, [`PluginEngine`] compiles it
//! and holds each call to its [`Limits`], and [`Extractor`], [`Formatter`] and [`Policy`] are the three kinds, each
//! with its output checked against the contract that its WIT file states.

mod admission;
mod admitted;
mod allowance;
pub mod bindings;
mod cache;
mod cost;
mod engine;
mod error;
mod extractor;
mod formatter;
mod grants;
mod limit_settings;
mod limits;
mod live;
mod log;
mod manifest;
mod policy;
mod reference;
mod registry;
mod resolution;
mod signature;
mod surface;
mod text;
mod trust;
mod wasi;

pub use allowance::{Allowance, Want};
pub use cost::{CallCost, Costs};
pub use engine::{PluginEngine, digest as component_digest};
pub use error::{CallSite, Fault, PluginError};
pub use extractor::Extractor;
pub use formatter::Formatter;
pub use grants::PluginGrants;
pub use limit_settings::LimitSettings;
pub use limits::Limits;
pub use live::PluginHost;
pub use manifest::{PluginKind, PluginManifest, WIT_VERSION};
pub use policy::Policy;
pub use reference::{PinnedRef, PluginRef, Sha256Hex};
pub use registry::PluginPackage;
pub use resolution::{Candidates, Choice, Decided, Inspection, Resolution};
pub use signature::{PublicKey, SigningError, SigningKey};
pub use surface::Surface;
pub use trust::TrustError;

/// What `run.json` and `plugins list` say of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PluginIdentity {
    /// From the manifest.
    pub name: String,
    /// From the manifest.
    pub version: String,
    /// From the manifest.
    pub kind: PluginKind,
    /// `built-in`, or the path of the component.
    pub origin: String,
    /// Lower-case hex SHA-256 of the component.
    pub sha256: String,
    /// Whose signature it has.
    pub signer: Option<PublicKey>,
}

impl From<&PluginPackage> for PluginIdentity {
    fn from(package: &PluginPackage) -> Self {
        Self {
            name: package.manifest.name.clone(),
            version: package.manifest.version.clone(),
            kind: package.manifest.kind,
            origin: match &package.origin {
                PluginRef::BuiltIn(_) => "built-in".to_owned(),
                PluginRef::File(path) => path.display().to_string(),
            },
            sha256: package.digest.clone(),
            signer: package.signer,
        }
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Characters of a reason, the row of a table, that are kept.
const MAX_REASON_CHARS: usize = 200;

fn failed(site: CallSite, fault: Fault) -> PluginError {
    PluginError::Call { site: Box::new(site), fault }
}
