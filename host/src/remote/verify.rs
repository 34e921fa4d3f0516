//! Whether what came from a job is what it wrote.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;

use super::RemoteError;
use crate::job::{ADAPTER_DIR, Bundle, JobId, JobResult, METRICS_FILE, RESULT_FILE, sha256_of};

/// Reads the output in `folder`: `result.json` must be of this job, every file that it names must have its digest, and the weights must
/// be readable.
///
/// # Errors
/// [`RemoteError::Damaged`], [`RemoteError::NoArtefact`].
pub(super) fn output(folder: &Path, bundle: &Bundle, id: &JobId) -> Result<JobResult, RemoteError> {
    let damaged = |what: String| RemoteError::Damaged { id: id.clone(), what };
    let missing = |what: &str| RemoteError::NoArtefact {
        id: id.clone(),
        what: what.to_owned(),
        place: format!("`{}`", folder.display()),
    };
    let text = fs::read(folder.join(RESULT_FILE)).map_err(|_| missing(RESULT_FILE))?;
    let result: JobResult =
        serde_json::from_slice(&text).map_err(|error| damaged(format!("`{RESULT_FILE}`: {error}")))?;
    if result.digest != bundle.digest {
        return Err(damaged(format!("`{RESULT_FILE}` is of another job, with digest {}", result.digest)));
    }
    let of_adapter = |path: &&String| path.starts_with(&format!("{ADAPTER_DIR}/"));
    if !result.files.contains_key(METRICS_FILE) || !result.files.keys().any(|path| of_adapter(&path)) {
        return Err(damaged(format!("`{RESULT_FILE}` names no adapter")));
    }
    for (path, want) in &result.files {
        if !is_plain(path) {
            return Err(damaged(format!("`{RESULT_FILE}` names `{path}`")));
        }
        let is = sha256_of(&folder.join(path)).map_err(|_| missing(path))?;
        if is != *want {
            return Err(damaged(format!("`{path}` has SHA-256 {is}, and `{RESULT_FILE}` says {want}")));
        }
    }
    for path in result.files.keys().filter(of_adapter) {
        let file = folder.join(path);
        let bytes = fs::read(&file).map_err(RemoteError::io("read", &file))?;
        if path.ends_with(".safetensors") {
            let weights = SafeTensors::deserialize(&bytes).map_err(|error| damaged(format!("`{path}`: {error}")))?;
            if weights.is_empty() {
                return Err(damaged(format!("`{path}` has no weights")));
            }
        } else if path.ends_with(".json") {
            let parsed: Result<Value, _> = serde_json::from_slice(&bytes);
            parsed.map_err(|error| damaged(format!("`{path}`: {error}")))?;
        }
    }
    Ok(result)
}

/// `adapter/config.json`, and nothing that leads elsewhere.
fn is_plain(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.all(|part| !part.is_empty() && part != ".." && part != ".") && !path.starts_with('/')
}
