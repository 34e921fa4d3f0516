//! `cargo plugins build` makes the committed components anew; `cargo plugins check` proves that they are what their
//! sources say: digests, no imports, and a rebuild that is equal byte for byte.

mod contract;
mod dist;
mod guests;
mod toolchain;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo plugins build|check [--manifest-dir DIR] [--out DIR]
       cargo plugins component new CORE.wasm --output COMPONENT.wasm

  build  build every guest of the workspace in DIR (default: plugins) as a component into OUT (default: DIR/dist)
  check  compare OUT with its plugins.lock, and with a rebuild
  component new  what `wasm-tools component new` does, for the scripts of the examples";

fn main() -> Result<()> {
    let given: Vec<_> = std::env::args_os().skip(1).collect();
    if let [component, new, core, output, path] = given.as_slice()
        && component == "component"
        && new == "new"
        && output == "--output"
    {
        return Ok(std::fs::write(path, guests::componentize(Path::new(core))?)?);
    }
    let arguments = Arguments::parse(given.into_iter())?;
    match arguments.command {
        Command::Build => build(&arguments),
        Command::Check => check(&arguments),
        Command::Help => {
            println!("{USAGE}");
            Ok(())
        }
    }
}

fn build(arguments: &Arguments) -> Result<()> {
    let rustc = toolchain::pinned_rustc(&arguments.workspace)?;
    let components = guests::build(&arguments.workspace)?;
    let lock = dist::Lock::of(&rustc, &components);
    dist::write(&arguments.out, &components, &lock)?;
    print!("{lock}");
    Ok(())
}

fn check(arguments: &Arguments) -> Result<()> {
    let lock = dist::Lock::read(&arguments.out)?;
    let committed = dist::read(&arguments.out)?;
    lock.verify(&committed)?;

    let rustc = toolchain::pinned_rustc(&arguments.workspace)?;
    let rebuilt = guests::build(&arguments.workspace)?;
    dist::Lock::of(&rustc, &rebuilt).verify(&committed).with_context(|| {
        format!("a rebuild with {rustc} differs from `{}`; run `cargo plugins build`", arguments.out.display())
    })?;
    lock.verify_tools(&rustc)?;
    println!("{} components: digests agree, and a rebuild with {rustc} is equal byte for byte", committed.len());
    Ok(())
}

enum Command {
    Build,
    Check,
    Help,
}

struct Arguments {
    command: Command,
    /// The guests' cargo workspace, absolute.
    workspace: PathBuf,
    out: PathBuf,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self> {
        let command = match arguments.next().as_deref().and_then(|command| command.to_str()) {
            Some("build") => Command::Build,
            Some("check") => Command::Check,
            Some("help" | "--help" | "-h") => Command::Help,
            _ => bail!("name a command\n\n{USAGE}"),
        };
        let (mut workspace, mut out) = (toolchain::default_plugins().to_path_buf(), None);
        while let Some(option) = arguments.next() {
            let mut folder =
                || arguments.next().map(PathBuf::from).with_context(|| format!("{option:?} wants a folder"));
            match option.to_str() {
                Some("--manifest-dir") => workspace = folder()?,
                Some("--out") => out = Some(folder()?),
                _ => bail!("unknown option {option:?}\n\n{USAGE}"),
            }
        }
        let workspace = absolute(&workspace)?;
        let out = out.unwrap_or_else(|| workspace.join("dist"));
        Ok(Self { command, workspace, out })
    }
}

fn absolute(folder: &Path) -> Result<PathBuf> {
    folder.canonicalize().with_context(|| format!("no folder `{}`", folder.display()))
}
