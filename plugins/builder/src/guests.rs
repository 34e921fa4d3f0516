//! Guest crates in, components out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use wit_component::ComponentEncoder;

use crate::contract;
use crate::toolchain::{self, TARGET};

/// Components by the name of their crate.
pub(crate) type Components = BTreeMap<String, Vec<u8>>;

/// Builds every `cdylib` of `workspace` and turns it into a component; one with a `plugin.toml` is held to it.
pub(crate) fn build(workspace: &Path) -> Result<Components> {
    let mut components = Components::new();
    for module in compile(workspace)? {
        let component = componentize(&module.wasm).with_context(|| format!("`{}` makes no component", module.name))?;
        contract::verify(&module.name, &module.folder, &component)?;
        components.insert(module.name, component);
    }
    Ok(components)
}

/// A core module, as cargo left it.
struct Module {
    name: String,
    /// Of the crate.
    folder: PathBuf,
    wasm: PathBuf,
}

fn compile(workspace: &Path) -> Result<Vec<Module>> {
    let output = toolchain::command("cargo", workspace)
        .args(["build", "--release", "--locked", "--workspace", "--lib", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .env("CARGO_ENCODED_RUSTFLAGS", remap_flags(workspace)?)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run `cargo`")?;
    if !output.status.success() {
        bail!("the guests in `{}` do not build", workspace.display());
    }
    let messages = String::from_utf8(output.stdout).context("cargo's messages are no UTF-8")?;
    let modules: Vec<Module> = messages.lines().filter_map(module).collect();
    if modules.is_empty() {
        bail!("no guest in `{}`: no crate of its workspace is a cdylib", workspace.display());
    }
    Ok(modules)
}

/// Panic messages hold source paths: the same ones wherever the checkout and cargo's home are.
fn remap_flags(workspace: &Path) -> Result<String> {
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => std::env::home_dir().context("neither CARGO_HOME nor a home folder is set")?.join(".cargo"),
    };
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    Ok([remap(workspace, "/plugins"), remap(&cargo_home, "/cargo")].join("\x1f"))
}

/// The module that a line of cargo's messages reports, where it reports one.
fn module(line: &str) -> Option<Module> {
    #[derive(Deserialize)]
    struct Artifact {
        target: Target,
        manifest_path: PathBuf,
        filenames: Vec<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }
    let Artifact { target, manifest_path, filenames } = serde_json::from_str(line).ok()?;
    if !target.kind.iter().any(|kind| kind == "cdylib") {
        return None;
    }
    let wasm = filenames.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "wasm"))?;
    Some(Module { name: target.name.replace('_', "-"), folder: manifest_path.parent()?.to_path_buf(), wasm })
}

/// Encodes a core module that has its WIT in a custom section.
pub(crate) fn componentize(wasm: &Path) -> Result<Vec<u8>> {
    let module = std::fs::read(wasm).with_context(|| format!("cannot read `{}`", wasm.display()))?;
    ComponentEncoder::default().validate(true).module(&module)?.encode()
}
