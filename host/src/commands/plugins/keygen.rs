//! `tunesmith plugins keygen`

use crate::cli::KeygenArgs;
use crate::commands::Answer;
use crate::error::HostError;
use crate::plugins::{PluginError, SigningKey};

pub(super) fn run(args: &KeygenArgs) -> Result<Answer, HostError> {
    let public = SigningKey::create(&args.out).map_err(PluginError::from)?.public();
    let text = format!(
        "the private key is in `{}`: keep it where only you can read it\n\nfor the operator's file:\ntrusted_keys = [\"{public}\"]",
        args.out.display()
    );
    Ok(Answer::new(text, &serde_json::json!({ "private_key": args.out, "public_key": public })))
}
