//! The compiler: pinned, because other compilers give other bytes, and shielded from the caller's settings.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// What the guests are compiled for: unlike the WASI targets it imports nothing.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// The folder of the default plugins, whose `rust-toolchain.toml` pins the compiler for all guests.
pub(crate) fn default_plugins() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// What `rustc --version` says in `workspace`.
///
/// # Errors
/// Where it is not the pinned version, or lacks [`TARGET`]: what to install.
pub(crate) fn pinned_rustc(workspace: &Path) -> Result<String> {
    let pinned = pinned_version()?;
    let install = format!("run `rustup toolchain install {pinned}`");
    let version = rustc(workspace, &["--version"]).context(install.clone())?;
    if !version.starts_with(&format!("rustc {pinned} ")) {
        bail!(
            "this is {version}, but plugins/rust-toolchain.toml pins {pinned}, and other compilers give other bytes; {install}"
        );
    }
    let libraries = rustc(workspace, &["--print", "target-libdir", "--target", TARGET])?;
    if !Path::new(&libraries).is_dir() {
        bail!("rustc {pinned} lacks the target {TARGET}; run `rustup target add {TARGET} --toolchain {pinned}`");
    }
    Ok(version)
}

/// `program` in `workspace`, without the choices that cargo and rustup export to the programs they run, nor the
/// user's own flags: they would decide for the guests.
pub(crate) fn command(program: &str, workspace: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace);
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let ours = text.starts_with("CARGO_PROFILE_") || text.starts_with("CARGO_BUILD_");
        if ours || ["CARGO", "RUSTC", "RUSTC_WRAPPER", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"].contains(&text) {
            command.env_remove(&name);
        }
    }
    command
}

fn pinned_version() -> Result<String> {
    #[derive(Deserialize)]
    struct ToolchainFile {
        toolchain: Toolchain,
    }
    #[derive(Deserialize)]
    struct Toolchain {
        channel: String,
    }
    let path = default_plugins().join("rust-toolchain.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let file: ToolchainFile = toml::from_str(&text).with_context(|| format!("in `{}`", path.display()))?;
    Ok(file.toolchain.channel)
}

fn rustc(workspace: &Path, arguments: &[&str]) -> Result<String> {
    let output = command("rustc", workspace).args(arguments).output().context("cannot run `rustc`")?;
    if !output.status.success() {
        bail!("`rustc {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}
