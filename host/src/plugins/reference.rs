//! How a configuration names a plugin: a built-in name or a file, and the digest that it is pinned to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::manifest::MANIFEST;
use super::signature;

/// Where a plugin is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

    /// Every file that is read for it, whether it is there or not: the component, its manifest and its signature.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::BuiltIn(_) => Vec::new(),
            Self::File(component) => {
                vec![component.clone(), component.with_file_name(MANIFEST), signature::path_of(component)]
            }
        }
    }
}

impl Serialize for PluginRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
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

/// A plugin as a configuration names it: `mine.wasm`, or pinned, `mine.wasm@sha256:<64 digits>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PinnedRef {
    /// Where it is.
    pub plugin: PluginRef,
    /// The digest that its component has to have.
    pub pin: Option<Sha256Hex>,
}

impl PinnedRef {
    /// Where the plugin that `text` names is, whatever its pin is worth.
    pub fn place(text: &str) -> PluginRef {
        PluginRef::parse(split_pin(text).0)
    }
}

impl FromStr for PinnedRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (plugin, pin) = split_pin(text);
        Ok(Self { plugin: PluginRef::parse(plugin), pin: pin.map(str::parse).transpose()? })
    }
}

impl fmt::Display for PinnedRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pin {
            Some(pin) => write!(f, "{}@sha256:{pin}", self.plugin),
            None => self.plugin.fmt(f),
        }
    }
}

impl Serialize for PinnedRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A path may hold an `@`, so only what follows the last one and has an algorithm's colon is a pin.
fn split_pin(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once('@') {
        Some((plugin, pin)) if pin.contains(':') && !pin.contains('/') => (plugin, Some(pin)),
        _ => (text, None),
    }
}

/// A SHA-256 as 64 lower-case hexadecimal digits; read with or without `sha256:` before them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sha256Hex(String);

impl Sha256Hex {
    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Sha256Hex {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
        if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self(digits));
        }
        Err(format!("`{text}` is no SHA-256: give `sha256:` and all 64 hexadecimal digits, as `sha256sum` prints them"))
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Sha256Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_all_64_digits_after_the_last_at() {
        let digits = "0123456789abcdef".repeat(4);
        let pinned: PinnedRef = format!("a@b/mine.wasm@sha256:{}", digits.to_uppercase()).parse().unwrap();
        assert_eq!(pinned.plugin, PluginRef::File("a@b/mine.wasm".into()));
        assert_eq!(pinned.pin.as_ref().map(Sha256Hex::as_str), Some(digits.as_str()));
        assert_eq!(pinned.to_string(), format!("a@b/mine.wasm@sha256:{digits}"));

        let built_in: PinnedRef = format!("alpaca-formatter@sha256:{digits}").parse().unwrap();
        assert_eq!(built_in.plugin, PluginRef::BuiltIn("alpaca-formatter".into()));
        let unpinned: PinnedRef = "a@b/mine.wasm".parse().unwrap();
        assert_eq!((unpinned.plugin, unpinned.pin), (PluginRef::File("a@b/mine.wasm".into()), None));
    }

    #[test]
    fn a_short_digest_or_another_algorithm_is_no_pin() {
        for pin in [
            "sha256:0123456789ab".to_owned(),
            format!("sha512:{}", "0".repeat(128)),
            format!("sha256:{}", "g".repeat(64)),
        ] {
            assert_eq!(
                format!("mine.wasm@{pin}").parse::<PinnedRef>(),
                Err(format!(
                    "`{pin}` is no SHA-256: give `sha256:` and all 64 hexadecimal digits, as `sha256sum` prints them"
                ))
            );
        }
    }

    #[test]
    fn a_pinned_file_is_a_file_and_a_manifest_and_a_signature() {
        assert_eq!(
            PinnedRef::place("p/mine.wasm@sha256:00").files(),
            ["p/mine.wasm", "p/plugin.toml", "p/mine.wasm.sig"].map(PathBuf::from)
        );
        assert_eq!(PinnedRef::place("p/mine").files().last(), Some(&PathBuf::from("p/mine.sig")));
        assert_eq!(PinnedRef::place("alpaca-formatter@sha256:00").files(), Vec::<PathBuf>::new());
    }
}
