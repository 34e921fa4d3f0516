//! What a component asks of its host and gives it, before anything of it is trusted.

use wasmtime::component::types::ComponentItem;

use super::engine::PluginEngine;
use super::error::PluginError;
use super::manifest::PluginKind;
use super::{Want, admission};

/// The imports and exports of a component.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Surface {
    /// Without the interfaces of types alone, which are no capability.
    pub imports: Vec<String>,
    /// As they are named.
    pub exports: Vec<String>,
}

impl Surface {
    /// Compiles `wasm`, or takes it from the cache, and looks at it; `plugin` is for messages.
    ///
    /// # Errors
    /// [`PluginError::NotAComponent`] or [`PluginError::Incompatible`].
    pub fn of(engine: &PluginEngine, plugin: &str, wasm: &[u8]) -> Result<Self, PluginError> {
        let component = engine.compile(plugin, wasm, &super::engine::digest(wasm), &super::Limits::default())?;
        let (ty, runtime) = (component.component_type(), engine.runtime());
        let only_types = |item: &ComponentItem| match item {
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(runtime).all(|(_, item)| matches!(item.ty, ComponentItem::Type(_)))
            }
            item => matches!(item, ComponentItem::Type(_)),
        };
        let imports = ty.imports(runtime).filter(|(_, import)| !only_types(&import.ty));
        Ok(Self {
            imports: imports.map(|(name, _)| name.to_owned()).collect(),
            exports: ty.exports(runtime).map(|(name, _)| name.to_owned()).collect(),
        })
    }

    /// The kind whose interface is exported, in whatever version.
    pub fn kind(&self) -> Option<PluginKind> {
        self.contract().map(|(kind, _)| kind)
    }

    /// The version of the WIT package that the exported interface is of.
    pub fn wit(&self) -> Option<&str> {
        self.contract().map(|(_, version)| version)
    }

    fn contract(&self) -> Option<(PluginKind, &str)> {
        self.exports.iter().find_map(|export| {
            let (interface, version) = export.split_once('@')?;
            let of = |kind: &PluginKind| kind.export().split('@').next() == Some(interface);
            let kind = [PluginKind::Extractor, PluginKind::Formatter, PluginKind::Policy].into_iter().find(of)?;
            Some((kind, version))
        })
    }

    /// What a manifest has to want for an import to be granted; none where no plugin is granted it.
    pub fn want_of(import: &str) -> Option<Want> {
        admission::want_of(import)
    }
}

#[cfg(test)]
mod tests {
    use super::super::WIT_VERSION;
    use super::*;

    fn surface(exports: &[&str]) -> Surface {
        Surface { imports: vec![], exports: exports.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn the_kind_and_the_version_are_those_of_the_exported_interface() {
        let policy = surface(&["init", "tunesmith:plugin/selection-policy@0.3.7"]);
        assert_eq!((policy.kind(), policy.wit()), (Some(PluginKind::Policy), Some("0.3.7")));
        let own = surface(&[&format!("tunesmith:plugin/formatting@{WIT_VERSION}")]);
        assert_eq!((own.kind(), own.wit()), (Some(PluginKind::Formatter), Some(WIT_VERSION)));
        assert_eq!(surface(&["wasi:cli/run@0.2.0"]).kind(), None);
    }

    #[test]
    fn an_import_is_granted_by_one_want_or_by_none() {
        assert_eq!(Surface::want_of("wasi:io/poll@0.2.9"), Some(Want::Wasi));
        assert_eq!(Surface::want_of("tunesmith:plugin/log@0.1.1"), Some(Want::Log));
        assert_eq!(Surface::want_of("tenant:reach/http"), None);
    }
}
