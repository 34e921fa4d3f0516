//! What a component must be before it may run: a component, without imports but those it was granted, with the export
//! of its kind.

use std::collections::BTreeSet;

use wasmparser::{Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::allowance::Want;
use super::error::PluginError;
use super::limits::Limits;
use super::manifest::PluginKind;
use super::text::plain;
use super::wasi;

/// Characters of a component's names, and of what the compiler says of it, that are told.
const MAX_CHARS: usize = 1000;

/// Refuses a component that would take its compiler too long: nothing stops a compilation once it runs. What is no
/// component at all is left to the compiler to say.
pub(super) fn check_size(plugin: &str, wasm: &[u8], limits: &Limits) -> Result<(), PluginError> {
    if wasm.len() > limits.component_bytes {
        let (bytes, limit) = (wasm.len(), limits.component_bytes);
        return Err(PluginError::TooLarge { plugin: plugin.to_owned(), bytes, limit });
    }
    let (mut parts, mut functions) = (0, 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => parts += 1,
            Ok(Payload::CodeSectionEntry(body)) if body.range().len() > Limits::FUNCTION_BYTES => {
                let bytes = body.range().len();
                return Err(PluginError::LargeFunction { plugin: plugin.to_owned(), bytes });
            }
            Ok(Payload::CodeSectionEntry(_)) => functions += 1,
            Ok(_) => {}
            Err(_) => break,
        }
        for (what, n, limit) in
            [("functions", functions, Limits::FUNCTIONS), ("modules and components", parts, Limits::PARTS)]
        {
            if n > limit {
                return Err(PluginError::ManyParts { plugin: plugin.to_owned(), what, limit });
            }
        }
    }
    Ok(())
}

/// Refuses a component that wants more of the host than it was granted, or lacks the interface of its kind.
pub(super) fn check(
    engine: &Engine,
    plugin: &str,
    component: &Component,
    kind: PluginKind,
    granted: &BTreeSet<Want>,
) -> Result<(), PluginError> {
    check_imports(engine, plugin, component, granted)?;
    check_exports(engine, plugin, component, kind)
}

/// Why bytes did not compile: they are no component, or a damaged or unsuitable one.
pub(super) fn not_compiled(plugin: &str, wasm: &[u8], error: &wasmtime::Error) -> PluginError {
    let plugin = plugin.to_owned();
    if wasm.starts_with(COMPONENT_PREAMBLE) {
        let text = format!("{error:#}");
        let error = plain(&text, MAX_CHARS);
        // The pool's refusals come with the compiler's.
        let what = match error.contains("pooling allocator") || error.contains("exceeds the configured maximum") {
            true => format!("it takes more than a plugin may: {error}; build it of fewer or smaller parts"),
            false => format!("it does not compile: {error}; build or copy it again"),
        };
        PluginError::Incompatible { plugin, what }
    } else if wasm.starts_with(b"\0asm") {
        PluginError::NotAComponent { plugin, what: "it is a core module".to_owned() }
    } else {
        PluginError::NotAComponent { plugin, what: "it does not start with `\\0asm`".to_owned() }
    }
}

/// An export that is there under the right name, but with other functions or types.
pub(super) fn incompatible(plugin: &str, error: &wasmtime::Error) -> PluginError {
    let error = format!("{error:#}");
    let what = format!("{}; rebuild it against this version's `wit/` folder", plain(&error, MAX_CHARS));
    PluginError::Incompatible { plugin: plugin.to_owned(), what }
}

/// `\0asm`, version 13, layer 1: the first bytes of every component; a core module has version 1, layer 0.
const COMPONENT_PREAMBLE: &[u8] = b"\0asm\x0d\0\x01\0";

/// What a plugin has to want for an import to be granted; none where no plugin is granted it.
pub(super) fn want_of(import: &str) -> Option<Want> {
    // In whatever version of our WIT package; the linker knows which fit.
    match import.starts_with("tunesmith:plugin/log@0.1.") {
        true => Some(Want::Log),
        false => wasi::interface(import).map(|_| Want::Wasi),
    }
}

fn check_imports(
    engine: &Engine,
    plugin: &str,
    component: &Component,
    granted: &BTreeSet<Want>,
) -> Result<(), PluginError> {
    for (name, import) in component.component_type().imports(engine) {
        // An interface of types only is no capability: `tunesmith:plugin/types` is one.
        let harmless = match &import.ty {
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(engine).all(|(_, item)| matches!(item.ty, ComponentItem::Type(_)))
            }
            item => matches!(item, ComponentItem::Type(_)),
        };
        if harmless {
            continue;
        }
        let (plugin, import) = (plugin.to_owned(), plain(name, MAX_CHARS).into_owned());
        match want_of(name) {
            Some(want) if granted.contains(&want) => {}
            Some(want) => return Err(PluginError::NotGranted { plugin, import, want }),
            None => return Err(PluginError::UnknownImport { plugin, import }),
        }
    }
    Ok(())
}

fn check_exports(engine: &Engine, plugin: &str, component: &Component, kind: PluginKind) -> Result<(), PluginError> {
    // As the bindings look it up: an earlier patch of our WIT package will do.
    if component.get_export_index(None, kind.export()).is_some() {
        return Ok(());
    }
    let names: Vec<_> = component.component_type().exports(engine).map(|(name, _)| format!("`{name}`")).collect();
    let found = if names.is_empty() { "nothing".to_owned() } else { plain(&names.join(", "), MAX_CHARS).into_owned() };
    Err(PluginError::MissingExport { plugin: plugin.to_owned(), kind, export: kind.export(), found })
}

#[cfg(test)]
mod tests {
    use super::super::engine::{PluginEngine, digest};
    use super::super::registry::PluginPackage;
    use super::super::{Extractor, Limits, PluginManifest, PluginRef};
    use super::*;

    fn load(wasm: &[u8]) -> String {
        let manifest = "name = \"p\"\nversion = \"1\"\nkind = \"extractor\"\nwit = \"0.1.0\"\ndescription = \"\"\n\
                        agent_types = [\"*\"]\n";
        let package = PluginPackage {
            manifest: PluginManifest::parse(manifest, std::path::Path::new("plugin.toml")).unwrap(),
            digest: digest(wasm),
            origin: PluginRef::BuiltIn("p".into()),
            signer: None,
            allowance: Default::default(),
            wasm: wasm.to_vec().into(),
        };
        let engine = PluginEngine::new(Limits::default()).unwrap();
        Extractor::load(&engine, &package).err().unwrap().to_string()
    }

    #[test]
    fn bytes_that_are_no_component_are_refused_by_what_they_are() {
        assert!(
            load(b"hello").starts_with("plugin `p` is not a WebAssembly component: it does not start with `\\0asm`;")
        );
        assert!(
            load(b"\0asm\x01\0\0\0").starts_with("plugin `p` is not a WebAssembly component: it is a core module;")
        );
        assert!(load(b"").contains("is not a WebAssembly component"));
    }

    #[test]
    fn a_damaged_component_does_not_compile() {
        let error = load(b"\0asm\x0d\0\x01\0\x07\xff");
        assert!(error.starts_with("plugin `p` does not fit this run: it does not compile:"), "{error}");
    }

    #[test]
    fn a_component_without_the_interface_of_its_kind_is_refused() {
        assert_eq!(
            load(COMPONENT_PREAMBLE),
            "plugin `p` does not export `tunesmith:plugin/extraction@0.1.1`, which every extractor must; it exports: \
             nothing; name another plugin, or build it for the world `extractor`"
        );
    }

    #[test]
    fn a_component_that_wants_a_capability_is_refused_with_its_name() {
        // (component (import "leak" (func)))
        let wasm = [COMPONENT_PREAMBLE, b"\x07\x05\x01\x40\0\x01\0", b"\x0a\x09\x01\0\x04leak\x01\0"].concat();
        let error = load(&wasm);
        assert!(error.starts_with("plugin `p` imports `leak`, and plugins get no imports"), "{error}");
    }
}
