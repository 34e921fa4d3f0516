//! The committed components and `plugins.lock` beside them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::guests::Components;

const LOCK_FILE: &str = "plugins.lock";
/// As in Cargo.toml.
const WIT_COMPONENT: &str = "0.258.3";

/// `plugins.lock`: what the components are, and what made them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Lock {
    rustc: String,
    wit_component: String,
    plugins: BTreeMap<String, Locked>,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Locked {
    /// Lower-case hex, of the component file.
    sha256: String,
    bytes: usize,
}

impl Lock {
    pub(crate) fn of(rustc: &str, components: &Components) -> Self {
        let plugins = components.iter().map(|(name, component)| (name.clone(), Locked::of(component))).collect();
        Self { rustc: rustc.into(), wit_component: WIT_COMPONENT.into(), plugins }
    }

    pub(crate) fn read(dist: &Path) -> Result<Self> {
        let path = dist.join(LOCK_FILE);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read `{}`; run `cargo plugins build`", path.display()))?;
        toml::from_str(&text).with_context(|| format!("in `{}`", path.display()))
    }

    /// # Errors
    /// Names every component that differs from its digest here, is missing, or has none.
    pub(crate) fn verify(&self, components: &Components) -> Result<()> {
        let differing = self.plugins.iter().filter_map(|(name, locked)| match components.get(name) {
            None => Some(format!("`{name}.wasm` is missing")),
            Some(component) if Locked::of(component) != *locked => Some(format!("`{name}.wasm` has another digest")),
            Some(_) => None,
        });
        let unknown = components.keys().filter(|name| !self.plugins.contains_key(*name));
        let complaints: Vec<String> =
            differing.chain(unknown.map(|name| format!("`{name}.wasm` is unknown"))).collect();
        if !complaints.is_empty() {
            bail!("the components are not those of {LOCK_FILE}: {}", complaints.join(", "));
        }
        Ok(())
    }

    /// # Errors
    /// Where the lock names other tools than `rustc` and our encoder.
    pub(crate) fn verify_tools(&self, rustc: &str) -> Result<()> {
        if self.rustc != rustc || self.wit_component != WIT_COMPONENT {
            bail!("{LOCK_FILE} does not name {rustc} and wit-component {WIT_COMPONENT}; run `cargo plugins build`");
        }
        Ok(())
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Locked {
    fn of(component: &[u8]) -> Self {
        let sha256 = Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { sha256, bytes: component.len() }
    }
}

/// Every `*.wasm` in `dist`.
pub(crate) fn read(dist: &Path) -> Result<Components> {
    let mut components = Components::new();
    for entry in fs::read_dir(dist).with_context(|| format!("cannot read `{}`", dist.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            components.insert(name, fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?);
        }
    }
    Ok(components)
}

/// The components and their lock into `dist`.
pub(crate) fn write(dist: &Path, components: &Components, lock: &Lock) -> Result<()> {
    fs::create_dir_all(dist).with_context(|| format!("cannot make `{}`", dist.display()))?;
    let write = |file: String, bytes: &[u8]| {
        let path = dist.join(file);
        fs::write(&path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
    };
    for (name, component) in components {
        write(format!("{name}.wasm"), component)?;
    }
    write(LOCK_FILE.into(), lock.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn components(components: &[(&str, &[u8])]) -> Components {
        components.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect()
    }

    #[test]
    fn lock_names_the_encoder_that_is_linked() {
        assert!(include_str!("../Cargo.toml").contains(&format!("wit-component = \"={WIT_COMPONENT}\"")));
    }

    #[test]
    fn lock_is_read_as_it_is_written() {
        let folder = std::env::temp_dir().join(format!("plugin-builder-{}", std::process::id()));
        let written = components(&[("policy", b"abc")]);
        write(&folder, &written, &Lock::of("rustc 1.0.0", &written)).unwrap();
        let lock = Lock::read(&folder).unwrap();
        let read = read(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();

        assert_eq!(read, written);
        lock.verify(&read).unwrap();
        // SHA-256 of `abc`: FIPS 180-2, appendix B.1.
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            lock.to_string(),
            format!(
                "rustc = \"rustc 1.0.0\"\nwit-component = \"{WIT_COMPONENT}\"\n\n\
                 [plugins.policy]\nsha256 = \"{sha256}\"\nbytes = 3\n"
            )
        );
    }

    #[test]
    fn every_difference_is_named() {
        let lock = Lock::of("rustc", &components(&[("a", b"1"), ("b", b"2"), ("c", b"3")]));
        let error = lock.verify(&components(&[("a", b"1"), ("b", b"!"), ("d", b"4")])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the components are not those of plugins.lock: \
             `b.wasm` has another digest, `c.wasm` is missing, `d.wasm` is unknown"
        );
    }

    #[test]
    fn other_tools_are_refused() {
        let lock = Lock::of("rustc 1.0.0", &Components::new());
        lock.verify_tools("rustc 1.0.0").unwrap();
        let error = lock.verify_tools("rustc 1.0.1").unwrap_err().to_string();
        assert!(error.contains("does not name rustc 1.0.1"), "{error}");
    }
}
