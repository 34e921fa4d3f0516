//! What a run used, from its `run.json` to the server that it came from.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::config::PhoenixConfig;
use crate::error::HostError;
use crate::phoenix::{self, MarkReport, Phoenix, Server, Used};
use crate::progress::Progress;

/// The part of `run.json` that says where examples came from.
#[derive(Deserialize)]
struct RunRecord {
    lineage: Vec<Example>,
}

#[derive(Deserialize)]
struct Example {
    set: String,
    span_ids: Vec<String>,
}

/// Annotates the spans of the run in `folder`, as [`phoenix::mark_used`].
///
/// # Errors
/// [`HostError::Io`] and [`HostError::Json`] where there is no `run.json` to read, and [`HostError::Phoenix`].
pub fn mark_used(config: &PhoenixConfig, folder: &Path, progress: &Progress) -> Result<MarkReport, HostError> {
    let path = folder.join("run.json");
    let text = std::fs::read_to_string(&path).map_err(HostError::io("read", &path))?;
    let record: RunRecord = serde_json::from_str(&text).map_err(|source| HostError::Json { path, source })?;
    // A span may have given several examples, all of one part.
    let used: BTreeSet<Used> = record
        .lineage
        .iter()
        .flat_map(|example| {
            example.span_ids.iter().map(|span_id| Used { span_id: span_id.clone(), set: example.set.clone() })
        })
        .collect();
    let used: Vec<Used> = used.into_iter().collect();

    let phoenix = Phoenix::new(Server::new(&config.url, config.api_key_file.as_deref(), config.key_of_environment)?)?;
    let stage = progress.stage("mark", used.len() as u64);
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let full = folder.canonicalize().map_err(HostError::io("find", folder))?;
    let report = phoenix::mark_used(&phoenix, &name(&full), weights_sha256(folder)?.as_deref(), &used)?;
    stage.finish(&format!(
        "{} spans have `{}` in `{}` of {}; {} are no longer there",
        report.marked,
        phoenix::USED_IN_TRAINING,
        config.project,
        phoenix.url(),
        report.missing
    ));
    Ok(report)
}

/// Of an adapter's weights; a whole model has none of that name.
fn weights_sha256(folder: &Path) -> Result<Option<String>, HostError> {
    let path = folder.join("adapter_model.safetensors");
    match std::fs::read(&path) {
        Ok(weights) => Ok(Some(Sha256::digest(weights).iter().map(|byte| format!("{byte:02x}")).collect())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HostError::io("read", &path)(error)),
    }
}
