//! Arguments of the commands for authors of plugins.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::authoring::Language;
use crate::plugins::PluginKind;

/// Arguments of `plugins new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// What the plugin does
    #[arg(value_enum)]
    pub kind: KindChoice,
    /// Its name: lower-case letters, digits and `-`
    pub name: String,
    /// What it is written in
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    pub lang: Language,
    /// Folder to write it into [default: NAME]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// What a plugin does in the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindChoice {
    /// Annotated spans in, examples out
    Extractor,
    /// Examples in, training records out
    Formatter,
    /// Dataset statistics in, decision out
    Policy,
}

impl From<KindChoice> for PluginKind {
    fn from(kind: KindChoice) -> Self {
        match kind {
            KindChoice::Extractor => Self::Extractor,
            KindChoice::Formatter => Self::Formatter,
            KindChoice::Policy => Self::Policy,
        }
    }
}

/// Arguments of `plugins check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    pub component: PathBuf,
}

/// Arguments of `plugins test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// A component, or the name of a built-in plugin
    #[arg(value_name = "PLUGIN")]
    pub plugin: String,
    /// Calls to make, as JSON lines: a file, or a folder of `.jsonl` files [default: made-up ones of every sort]
    #[arg(long, value_name = "PATH")]
    pub fixtures: Option<PathBuf>,
    /// What the calls must give, as JSON lines
    #[arg(long, value_name = "FILE")]
    pub expect: Option<PathBuf>,
    /// Write what they give to the file of `--expect`
    #[arg(long, requires = "expect")]
    pub update: bool,
    /// A setting that the plugin needs; made-up calls and the contract's checks give it
    #[arg(long = "setting", value_name = "KEY=VALUE", value_parser = setting)]
    pub settings: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
