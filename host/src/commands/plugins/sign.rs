//! `tunesmith plugins sign`

use crate::cli::SignArgs;
use crate::commands::Answer;
use crate::error::HostError;
use crate::plugins::{PluginError, PluginPackage, SigningKey};

pub(super) fn run(args: &SignArgs) -> Result<Answer, HostError> {
    let key = SigningKey::read(&args.key).map_err(PluginError::from)?;
    let (signature, manifest, sha256) = PluginPackage::sign(&args.component, &key)?;
    let (name, version, public) = (&manifest.name, &manifest.version, key.public());
    let text = format!("{name} {version}, sha256:{sha256}\nsigned by {public}\n\nsignature: {}", signature.display());
    let json = serde_json::json!({
        "plugin": name, "version": version, "kind": manifest.kind, "sha256": sha256, "signer": public, "signature": signature,
    });
    Ok(Answer::new(text, &json))
}
