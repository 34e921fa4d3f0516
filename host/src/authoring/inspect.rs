//! Everything that a run would have against a component, at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::{AuthoringError, Subject};
use crate::plugins::{
    Limits, PluginEngine, PluginError, PluginKind, PluginManifest, PluginPackage, PluginRef, PublicKey, Surface,
    WIT_VERSION, Want, component_digest,
};

/// What there is to know of a component.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: usize,
    /// Lower-case hex.
    pub sha256: String,
    /// By what it exports.
    pub kind: Option<PluginKind>,
    /// The version of the contract that it exports.
    pub wit: Option<String>,
    /// What it asks of its host, and exports.
    #[serde(flatten)]
    pub surface: Option<Surface>,
    /// `plugin.toml` beside it.
    pub manifest: Option<PluginManifest>,
    /// Whose signature it has, where that is right.
    pub signer: Option<PublicKey>,
    /// What was found, the problems first.
    pub findings: Vec<Finding>,
}

/// Something to tell the author.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// True where a run would refuse the component for it.
    pub is_problem: bool,
    /// What it is, and what to do.
    pub what: String,
}

impl Inspection {
    /// Whether a run could load it.
    pub fn loads(&self) -> bool {
        !self.findings.iter().any(|finding| finding.is_problem)
    }
}

/// Looks at the component at `path` and at the manifest beside it.
///
/// # Errors
/// [`AuthoringError::Io`] where there is no such file, and [`PluginError::Runtime`] where nothing can be loaded here.
pub fn inspect(path: &Path) -> Result<Inspection, InspectError> {
    let wasm = std::fs::read(path).map_err(AuthoringError::io("read", path))?;
    let engine = PluginEngine::new(Limits::default())?;
    let mut inspection = Inspection {
        path: path.to_owned(),
        bytes: wasm.len(),
        sha256: component_digest(&wasm),
        kind: None,
        wit: None,
        surface: None,
        manifest: None,
        signer: None,
        findings: Vec::new(),
    };
    let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    inspection.look(&engine, &name, &wasm);
    inspection.findings.sort_by_key(|finding| !finding.is_problem);
    Ok(inspection)
}

/// Why there is nothing to say of a component.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file.
    #[error(transparent)]
    File(#[from] AuthoringError),
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] PluginError),
}

impl Inspection {
    fn problem(&mut self, what: impl ToString) {
        self.findings.push(Finding { is_problem: true, what: what.to_string() });
    }

    fn note(&mut self, what: impl ToString) {
        self.findings.push(Finding { is_problem: false, what: what.to_string() });
    }

    fn look(&mut self, engine: &Arc<PluginEngine>, name: &str, wasm: &[u8]) {
        self.look_at_manifest(name);
        let surface = match Surface::of(engine, name, wasm) {
            Ok(surface) => surface,
            Err(error) => return self.problem(error),
        };
        self.kind = surface.kind();
        self.wit = surface.wit().map(str::to_owned);
        let wants = self.manifest.as_ref().map_or_else(BTreeSet::new, |manifest| manifest.wants.clone());
        self.look_at_imports(&surface.imports, &wants);
        match self.kind {
            None => {
                let names: Vec<_> = surface.exports.iter().map(|name| format!("`{name}`")).collect();
                let found = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                self.problem(AuthoringError::NoKind { plugin: name.to_owned(), found });
            }
            Some(kind) => {
                self.look_at_kind(kind);
                // Whatever is left: types that differ, limits of the pool, a signature.
                if self.loads() {
                    match load(engine, &self.path, kind) {
                        Ok(signer) => self.signer = signer,
                        Err(error) => self.problem(error),
                    }
                }
            }
        }
        self.surface = Some(surface);
    }

    fn look_at_manifest(&mut self, name: &str) {
        let path = self.path.with_file_name("plugin.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => match PluginManifest::parse(&text, &path) {
                Ok(manifest) => {
                    if manifest.name != name {
                        self.note(format!("`{}` calls it `{}`, its file `{name}`", path.display(), manifest.name));
                    }
                    self.manifest = Some(manifest);
                }
                Err(error) => self.problem(error),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.note(
                "there is no `plugin.toml` beside it: it serves every agent type, has no version, and wants nothing but settings",
            ),
            Err(source) => self.problem(PluginError::Read { path, source }),
        }
    }

    fn look_at_imports(&mut self, imports: &[String], wants: &BTreeSet<Want>) {
        let mut used = BTreeSet::new();
        let mut missing = BTreeSet::new();
        for import in imports {
            match Surface::want_of(import) {
                None => self.problem(format!(
                    "it imports `{import}`, which no plugin gets; leave out what needs it (files, network, processes)"
                )),
                Some(want) => {
                    used.insert(want);
                    if !wants.contains(&want) && missing.insert(want) {
                        let stub = if want == Want::Wasi { ", or build it with WASI stubbed out" } else { "" };
                        self.problem(format!(
                            "it imports `{import}`, and does not ask for it; write `wants = [\"{want}\"]` in its `plugin.toml`{stub}"
                        ));
                    }
                }
            }
        }
        for want in wants.difference(&used).filter(|want| **want != Want::Settings) {
            self.note(format!("it wants `{want}` and imports nothing of it"));
        }
    }

    fn look_at_kind(&mut self, kind: PluginKind) {
        if let Some(manifest) = &self.manifest
            && manifest.kind != kind
        {
            let said = manifest.kind;
            self.problem(format!(
                "its `plugin.toml` says {said}, and it exports the interface of a {kind}; write `kind = \"{kind}\"`"
            ));
        }
        if let Some((wit, manifest)) = self.wit.as_deref().zip(self.manifest.as_ref())
            && manifest.wit != wit
        {
            let said = &manifest.wit;
            self.note(format!(
                "its `plugin.toml` says WIT {said}, and it was built against {wit}; this host speaks {WIT_VERSION}"
            ));
        }
    }
}

fn load(engine: &Arc<PluginEngine>, path: &Path, kind: PluginKind) -> Result<Option<PublicKey>, PluginError> {
    let package = PluginPackage::find(&PluginRef::File(path.to_owned()), kind, None)?;
    Subject::load(engine, &package).map(|_| package.signer)
}
