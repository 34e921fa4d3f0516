//! Arguments of the commands that look at plugins and sign them.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `plugins keygen`.
#[derive(Debug, Args)]
pub struct KeygenArgs {
    /// File for the private key, which is not there yet
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
}

/// Arguments of `plugins sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The component; its manifest, `plugin.toml` beside it, is signed with it
    #[arg(value_name = "PLUGIN.wasm")]
    pub component: PathBuf,
    /// The private key, a file of `plugins keygen`
    #[arg(long, env = "TUNESMITH_SIGNING_KEY", value_name = "FILE")]
    pub key: PathBuf,
}
