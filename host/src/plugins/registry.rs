//! Which plugin serves a run: a built-in one by name, or a tenant's by the path of its component.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::allowance::Allowance;
use super::engine::digest;
use super::error::PluginError;
use super::manifest::{ANY_AGENT, PluginKind, PluginManifest, WIT_VERSION};

/// How a configuration names a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginRef {
    /// The name of a plugin that is built into the binary.
    BuiltIn(String),
    /// A `.wasm` component; `plugin.toml` beside it is read where it is there.
    File(PathBuf),
}

impl PluginRef {
    /// A word that ends in `.wasm` or holds a `/` is a path; any other is a built-in name.
    pub fn parse(text: &str) -> Self {
        if text.ends_with(".wasm") || text.contains('/') {
            Self::File(text.into())
        } else {
            Self::BuiltIn(text.to_owned())
        }
    }
}

impl serde::Serialize for PluginRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for PluginRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A plugin's component and what is known of it, before it is compiled.
pub struct PluginPackage {
    /// What it says of itself.
    pub manifest: PluginManifest,
    /// Lower-case hex SHA-256 of the component.
    pub digest: String,
    /// Where it came from.
    pub origin: PluginRef,
    /// What it may use.
    pub allowance: Allowance,
    pub(super) wasm: Cow<'static, [u8]>,
}

impl PluginPackage {
    /// Finds the plugin that `reference` names and checks that it suits a run.
    ///
    /// # Errors
    /// [`PluginError::Unknown`], [`PluginError::Read`], [`PluginError::Manifest`] or [`PluginError::Incompatible`].
    pub fn find(reference: &PluginRef, kind: PluginKind, agent_type: Option<&str>) -> Result<Self, PluginError> {
        let package = match reference {
            PluginRef::BuiltIn(name) => built_in(name, kind)?,
            PluginRef::File(path) => from_file(path, kind)?,
        };
        package.manifest.check(kind, agent_type)?;
        Ok(package)
    }

    /// Every built-in plugin, in the order of [`BUILT_IN`].
    ///
    /// # Errors
    /// [`PluginError::Manifest`] where a manifest in the repository is wrong; a test excludes it.
    pub fn all_built_in() -> Result<Vec<Self>, PluginError> {
        BUILT_IN.iter().map(BuiltIn::package).collect()
    }

    /// Size of the component in bytes.
    pub fn size_bytes(&self) -> usize {
        self.wasm.len()
    }
}

/// A plugin that is part of the binary.
struct BuiltIn {
    name: &'static str,
    manifest: &'static str,
    wasm: &'static [u8],
}

macro_rules! built_in {
    ($name:literal) => {
        BuiltIn {
            name: $name,
            manifest: include_str!(concat!("../../../plugins/", $name, "/plugin.toml")),
            wasm: include_bytes!(concat!("../../../plugins/dist/", $name, ".wasm")),
        }
    };
}

/// The default plugins; they have no privilege that a tenant's lacks.
static BUILT_IN: [BuiltIn; 5] = [
    built_in!("annotated-extractor"),
    built_in!("alpaca-formatter"),
    built_in!("prompt-completion-formatter"),
    built_in!("chat-formatter"),
    built_in!("threshold-policy"),
];

impl BuiltIn {
    fn package(&self) -> Result<PluginPackage, PluginError> {
        let path = PathBuf::from(format!("plugins/{}/plugin.toml", self.name));
        Ok(PluginPackage {
            manifest: PluginManifest::parse(self.manifest, &path)?,
            digest: digest(self.wasm),
            origin: PluginRef::BuiltIn(self.name.to_owned()),
            allowance: Allowance::default(),
            wasm: Cow::Borrowed(self.wasm),
        })
    }
}

fn built_in(name: &str, kind: PluginKind) -> Result<PluginPackage, PluginError> {
    match BUILT_IN.iter().find(|plugin| plugin.name == name) {
        Some(plugin) => plugin.package(),
        None => {
            let packages = PluginPackage::all_built_in()?;
            let known: Vec<_> = packages
                .iter()
                .filter(|package| package.manifest.kind == kind)
                .map(|package| format!("`{}`", package.manifest.name))
                .collect();
            Err(PluginError::Unknown { name: name.to_owned(), kind, known: known.join(", ") })
        }
    }
}

fn from_file(path: &Path, kind: PluginKind) -> Result<PluginPackage, PluginError> {
    let read_error = |path: &Path| {
        let path = path.to_owned();
        move |source| PluginError::Read { path, source }
    };
    let wasm = std::fs::read(path).map_err(read_error(path))?;
    let manifest_path = path.with_file_name("plugin.toml");
    let manifest = match std::fs::read_to_string(&manifest_path) {
        Ok(text) => PluginManifest::parse(&text, &manifest_path)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => PluginManifest {
            name: path
                .file_stem()
                .map_or_else(|| path.display().to_string(), |stem| stem.to_string_lossy().into_owned()),
            version: "unversioned".to_owned(),
            kind,
            wit: WIT_VERSION.to_owned(),
            description: String::new(),
            agent_types: vec![ANY_AGENT.to_owned()],
            wants: BTreeSet::new(),
        },
        Err(error) => return Err(read_error(&manifest_path)(error)),
    };
    Ok(PluginPackage {
        manifest,
        digest: digest(&wasm),
        origin: PluginRef::File(path.to_owned()),
        allowance: Allowance::default(),
        wasm: Cow::Owned(wasm),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_components_are_those_of_the_lock_file() {
        let lock: toml::Table = toml::from_str(include_str!("../../../plugins/dist/plugins.lock")).unwrap();
        let locked = lock["plugins"].as_table().unwrap();
        let packages = PluginPackage::all_built_in().unwrap();
        assert_eq!(packages.len(), locked.len());
        for package in packages {
            let name = &package.manifest.name;
            assert_eq!(locked[name]["sha256"].as_str(), Some(package.digest.as_str()), "{name}");
            assert_eq!(package.origin, PluginRef::BuiltIn(name.clone()));
        }
    }

    #[test]
    fn a_name_that_is_not_built_in_lists_those_that_are() {
        let reference = PluginRef::parse("alpaka-formatter");
        let error = PluginPackage::find(&reference, PluginKind::Formatter, None).err().unwrap();
        assert_eq!(
            error.to_string(),
            "no built-in formatter is called `alpaka-formatter`; built in: `alpaca-formatter`, \
             `prompt-completion-formatter`, `chat-formatter`; a plugin of your own is named by the path of its `.wasm` file"
        );
    }

    #[test]
    fn a_built_in_plugin_of_another_kind_is_refused() {
        let error =
            PluginPackage::find(&PluginRef::parse("threshold-policy"), PluginKind::Formatter, None).err().unwrap();
        assert!(error.to_string().contains("its manifest says policy"), "{error}");
    }

    #[test]
    fn a_path_is_read_with_the_manifest_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let wasm = root.path().join("mine.wasm");
        let find = || PluginPackage::find(&PluginRef::File(wasm.clone()), PluginKind::Formatter, Some("routing"));
        assert!(matches!(find(), Err(PluginError::Read { path, .. }) if path == wasm));
        std::fs::write(&wasm, "x").unwrap();
        assert_eq!(find().unwrap().manifest.name, "mine");
        std::fs::write(root.path().join("plugin.toml"), "name = 3").unwrap();
        assert!(matches!(find(), Err(PluginError::Manifest { .. })));
    }
}
