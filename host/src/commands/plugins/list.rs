//! `tunesmith plugins list`

use crate::commands::Answer;
use crate::error::HostError;
use crate::plugins::{PluginIdentity, PluginPackage};
use crate::report;

pub(super) fn run() -> Result<Answer, HostError> {
    let mut table = report::table();
    table.set_header(["plugin", "kind", "version", "KiB", "sha256", "what it does"]);
    let mut list = Vec::new();
    for package in PluginPackage::all_built_in()? {
        let identity = PluginIdentity::from(&package);
        table.add_row([
            identity.name.clone(),
            identity.kind.to_string(),
            identity.version.clone(),
            (package.size_bytes() / 1024).to_string(),
            identity.sha256[..12].to_owned(),
            package.manifest.description.clone(),
        ]);
        list.push(serde_json::json!({
            "plugin": identity,
            "description": package.manifest.description,
            "agent_types": package.manifest.agent_types,
            "bytes": package.size_bytes(),
        }));
    }
    Ok(Answer::new(table, &list))
}
