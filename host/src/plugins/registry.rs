//! Where plugins come from: a built-in one by name, or a tenant's by the path of its component.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::allowance::{Allowance, Want};
use super::engine::digest;
use super::error::PluginError;
use super::limit_settings::LimitSettings;
use super::manifest::{ANY_AGENT, MANIFEST, PluginKind, PluginManifest, WIT_VERSION};
use super::reference::PluginRef;
use super::resolution::Resolution;
use super::signature::{self, PublicKey, Signature, SigningError, SigningKey};
use super::trust::TrustError;

/// A plugin's component and what is known of it, before it is compiled.
pub struct PluginPackage {
    /// What it says of itself.
    pub manifest: PluginManifest,
    /// Lower-case hex SHA-256 of the component.
    pub digest: String,
    /// Where it came from.
    pub origin: PluginRef,
    /// Who signed it.
    pub signer: Option<PublicKey>,
    /// What it may use.
    pub allowance: Allowance,
    /// The bytes that the digest and the signature are of; nothing is read again to compile them.
    pub(super) wasm: Cow<'static, [u8]>,
}

/// A package, and what is wrong with its signature.
pub(super) struct Found {
    pub(super) package: PluginPackage,
    pub(super) wrong_signature: Option<TrustError>,
}

impl PluginPackage {
    /// Finds the plugin that `reference` names and checks that it suits a run; what it asks for, it gets.
    ///
    /// # Errors
    /// [`PluginError::Unknown`], [`PluginError::Read`], [`PluginError::Manifest`], [`PluginError::Incompatible`], or
    /// [`PluginError::Trust`] where it is signed and was changed.
    pub fn find(reference: &PluginRef, kind: PluginKind, agent_type: Option<&str>) -> Result<Self, PluginError> {
        Resolution::of(reference.clone(), kind, agent_type).package()
    }

    /// Reads the plugin that `reference` names.
    ///
    /// # Errors
    /// [`PluginError::Unknown`], [`PluginError::Read`] and [`PluginError::Manifest`].
    pub(super) fn read(reference: &PluginRef, kind: PluginKind) -> Result<Found, PluginError> {
        match reference {
            PluginRef::BuiltIn(name) => Ok(Found { package: built_in(name, kind)?, wrong_signature: None }),
            PluginRef::File(path) => from_file(path, kind),
        }
    }

    /// Signs the component at `path` and its manifest; returns the signature's file and the component's digest.
    ///
    /// # Errors
    /// [`PluginError::Read`] and [`PluginError::Manifest`]; [`PluginError::Signing`] where there is no manifest or the
    /// signature can't be written.
    pub fn sign(path: &Path, key: &SigningKey) -> Result<(PathBuf, PluginManifest, String), PluginError> {
        let wasm = read(path, MAX_COMPONENT_BYTES)?;
        let (manifest_path, bytes) = manifest_beside(path)?;
        let bytes = bytes.ok_or_else(|| SigningError::NoManifest { path: path.to_owned() })?;
        let manifest = parse(&bytes, &manifest_path)?;
        let sha256 = digest(&wasm);
        let text = format!("{}\n", key.sign(&signature::statement(&manifest, &sha256, &bytes)));
        let signature_path = signature::path_of(path);
        signature::write(&signature_path, &text)?;
        Ok((signature_path, manifest, sha256))
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
        let manifest = PluginManifest::parse(self.manifest, &path)?;
        let allowance = Allowance { wants: manifest.wants.clone(), ..Allowance::default() };
        Ok(PluginPackage {
            manifest,
            digest: digest(self.wasm),
            origin: PluginRef::BuiltIn(self.name.to_owned()),
            signer: None,
            allowance,
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

/// Sixteen times the largest component seen (a Python guest): more is no plugin, and is not read into memory.
const MAX_COMPONENT_BYTES: u64 = 256 << 20;
/// A manifest is half a page, a signature one line.
const MAX_TEXT_BYTES: u64 = 64 << 10;

fn from_file(path: &Path, kind: PluginKind) -> Result<Found, PluginError> {
    let wasm = read(path, MAX_COMPONENT_BYTES)?;
    let (manifest_path, manifest_bytes) = manifest_beside(path)?;
    let signature_path = signature::path_of(path);
    let signature = if_there(read(&signature_path, MAX_TEXT_BYTES))?;
    let manifest = match &manifest_bytes {
        Some(bytes) => parse(bytes, &manifest_path)?,
        None => unwritten(path, kind),
    };
    let digest = digest(&wasm);
    let signer = match (signature, &manifest_bytes) {
        (None, _) => Ok(None),
        (Some(_), None) => Err(TrustError::SignedManifestMissing { path: signature_path }),
        (Some(text), Some(bytes)) => match std::str::from_utf8(&text).ok().and_then(Signature::parse) {
            None => Err(TrustError::NoSignature { path: signature_path }),
            Some(signature) if signature.fits(&signature::statement(&manifest, &digest, bytes)) => {
                Ok(Some(signature.key))
            }
            Some(signature) => Err(TrustError::OtherThanSigned { plugin: manifest.name.clone(), key: signature.key }),
        },
    };
    let (signer, wrong_signature) = match signer {
        Ok(signer) => (signer, None),
        Err(wrong) => (None, Some(wrong)),
    };
    let package = PluginPackage {
        manifest,
        digest,
        origin: PluginRef::File(path.to_owned()),
        signer,
        allowance: Allowance::default(),
        wasm: Cow::Owned(wasm),
    };
    Ok(Found { package, wrong_signature })
}

/// The manifest of a component that has none: any agent type, and settings, as for a first try of one's own.
fn unwritten(path: &Path, kind: PluginKind) -> PluginManifest {
    PluginManifest {
        name: path.file_stem().map_or_else(|| path.display().to_string(), |stem| stem.to_string_lossy().into_owned()),
        version: "unversioned".to_owned(),
        kind,
        wit: WIT_VERSION.to_owned(),
        description: String::new(),
        agent_types: vec![ANY_AGENT.to_owned()],
        wants: BTreeSet::from([Want::Settings]),
        limits: LimitSettings::default(),
    }
}

fn manifest_beside(component: &Path) -> Result<(PathBuf, Option<Vec<u8>>), PluginError> {
    let path = component.with_file_name(MANIFEST);
    let bytes = if_there(read(&path, MAX_TEXT_BYTES))?;
    Ok((path, bytes))
}

fn parse(bytes: &[u8], path: &Path) -> Result<PluginManifest, PluginError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let what = format!("byte {} is no UTF-8; save it as UTF-8", error.valid_up_to() + 1);
        PluginError::Manifest { path: path.to_owned(), what }
    })?;
    PluginManifest::parse(text, path)
}

fn if_there(read: Result<Vec<u8>, PluginError>) -> Result<Option<Vec<u8>>, PluginError> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(PluginError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, PluginError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes));
    match read {
        Ok(length) if length as u64 > max_bytes => Err(std::io::Error::other(format!("it has over {max_bytes} bytes"))),
        read => read.map(|_| bytes),
    }
    .map_err(|source| PluginError::Read { path: path.to_owned(), source })
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
