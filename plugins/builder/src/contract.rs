//! A plugin's `plugin.toml` against its component: the export that its kind promises, and no import but what it wants.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use wit_component::DecodedWasm;
use wit_parser::{Resolve, TypeDefKind, WorldItem};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    #[serde(rename = "version")]
    _version: String,
    kind: Kind,
    /// Version of `wit/`.
    wit: String,
    #[serde(rename = "description")]
    _description: String,
    #[serde(rename = "agent_types")]
    _agent_types: Vec<String>,
    /// What it asks of the host.
    #[serde(default)]
    wants: Vec<String>,
    #[serde(default, rename = "limits")]
    _limits: toml::Table,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Extractor,
    Formatter,
    Policy,
}

impl Kind {
    fn interface(&self) -> &'static str {
        match self {
            Kind::Extractor => "extraction",
            Kind::Formatter => "formatting",
            Kind::Policy => "selection-policy",
        }
    }
}

/// Holds the component of the crate `name` in `folder` to its `plugin.toml`. A crate without one is no plugin but
/// any guest, and passes.
pub(crate) fn verify(name: &str, folder: &Path, component: &[u8]) -> Result<()> {
    let path = folder.join("plugin.toml");
    if !path.is_file() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let manifest: Manifest = toml::from_str(&text).with_context(|| format!("in `{}`", path.display()))?;
    if manifest.name != name {
        bail!("`{}` names the plugin `{}`, but its crate is `{name}`", path.display(), manifest.name);
    }
    let surface = Surface::of(component).with_context(|| format!("`{name}`"))?;
    let log = format!("tunesmith:plugin/log@{}", manifest.wit);
    let wants = |want: &str| manifest.wants.iter().any(|wanted| wanted == want);
    let granted = |import: &str| wants("log") && import == log || wants("wasi") && import.starts_with("wasi:");
    let imports: Vec<_> = surface.imports.into_iter().filter(|import| !granted(import)).collect();
    if !imports.is_empty() {
        bail!("`{name}` imports `{}`; a plugin has no ambient authority: remove what needs it", imports.join("`, `"));
    }
    let promised = format!("tunesmith:plugin/{}@{}", manifest.kind.interface(), manifest.wit);
    if surface.exports != [promised.as_str()] {
        bail!("`{name}` exports `{}`, but its plugin.toml promises `{promised}` alone", surface.exports.join("`, `"));
    }
    Ok(())
}

/// What a component asks of its host, and gives it.
struct Surface {
    /// Without the interfaces that only define types: they need nothing of the host, so that an empty linker
    /// instantiates the component.
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Surface {
    fn of(component: &[u8]) -> Result<Self> {
        let DecodedWasm::Component(resolve, world) = wit_component::decode(component)? else {
            bail!("not a component");
        };
        let world = &resolve.worlds[world];
        let imports = world.imports.iter().filter(|(_, item)| !only_types(&resolve, item));
        Ok(Self {
            imports: imports.map(|(key, _)| resolve.name_world_key(key)).collect(),
            exports: world.exports.keys().map(|key| resolve.name_world_key(key)).collect(),
        })
    }
}

fn only_types(resolve: &Resolve, item: &WorldItem) -> bool {
    let WorldItem::Interface { id, .. } = item else { return false };
    let interface = &resolve.interfaces[*id];
    let is_resource = |id| matches!(resolve.types[id].kind, TypeDefKind::Resource);
    interface.functions.is_empty() && !interface.types.values().any(|id| is_resource(*id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::default_plugins;

    fn committed(name: &str) -> Vec<u8> {
        std::fs::read(default_plugins().join("dist").join(name).with_extension("wasm")).unwrap()
    }

    fn error(name: &str, component: &[u8]) -> String {
        format!("{:#}", verify(name, &default_plugins().join(name), component).unwrap_err())
    }

    #[test]
    fn committed_plugins_keep_their_promise() {
        let names = [
            "annotated-extractor",
            "alpaca-formatter",
            "prompt-completion-formatter",
            "chat-formatter",
            "threshold-policy",
        ];
        for name in names {
            verify(name, &default_plugins().join(name), &committed(name)).unwrap();
        }
    }

    #[test]
    fn wrong_export_is_refused() {
        let error = error("threshold-policy", &committed("chat-formatter"));
        let expected = "`threshold-policy` exports `tunesmith:plugin/formatting@0.1.1`, \
                        but its plugin.toml promises `tunesmith:plugin/selection-policy@0.1.1` alone";
        assert_eq!(error, expected);
    }

    #[test]
    fn import_of_a_function_is_refused() {
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        component.extend(b"\x07\x05\x01\x40\0\x01\0"); // One type: a function without parameters and results.
        component.extend(b"\x0a\x08\x01\0\x03now\x01\0"); // One import: the function `now` of that type.
        let error = error("threshold-policy", &component);
        assert!(error.starts_with("`threshold-policy` imports `now`; "), "{error}");
    }

    #[test]
    fn other_name_than_the_crates_is_refused() {
        let folder = default_plugins().join("threshold-policy");
        let error = verify("policy", &folder, &committed("threshold-policy")).unwrap_err().to_string();
        assert!(error.ends_with("names the plugin `threshold-policy`, but its crate is `policy`"), "{error}");
    }
}
