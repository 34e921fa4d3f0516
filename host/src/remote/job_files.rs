use std::path::Path;

use serde::de::DeserializeOwned;

use super::RemoteError;
use crate::artefacts::{ArtefactError, ArtefactStore};
use crate::job::{
    ADAPTER_DIR, Bundle, FAILURE_FILE, Failure, HEARTBEAT_FILE, Heartbeat, JOB_FILE, JobId, JobKey, METRICS_FILE,
    RESULT_FILE,
};

/// A job's folder in an artefact store: `bundle/`, what its machine is handed, and `out/`, what that hands back. All attempts share
/// it, so that one goes on from the checkpoint of the one before.
#[derive(Debug, Clone)]
pub struct JobFiles {
    store: ArtefactStore,
    key: JobKey,
}

impl JobFiles {
    /// The folder of job `key` in `root`.
    pub fn new(root: &ArtefactStore, key: &JobKey) -> Self {
        Self { store: root.at(key.as_str()), key: key.clone() }
    }

    /// What the job's machine reads.
    pub fn bundle(&self) -> ArtefactStore {
        self.store.at("bundle")
    }

    /// What it writes.
    pub fn out(&self) -> ArtefactStore {
        self.store.at("out")
    }

    /// Copies the bundle there; what is there already is not copied again. `job.json` comes last: with it, the bundle is whole.
    ///
    /// # Errors
    /// [`RemoteError::Transient`], [`RemoteError::Credentials`].
    pub fn upload(&self, bundle: &Bundle) -> Result<(), RemoteError> {
        let store = self.bundle();
        let there = store.list()?;
        let is_there = |path: &str, size| there.iter().any(|entry| entry.path == path && entry.size == size);
        let (last, files): (Vec<_>, Vec<_>) = bundle.files.iter().partition(|file| file.path == JOB_FILE);
        for file in files.into_iter().chain(last) {
            if !is_there(&file.path, file.size) {
                store.put_file(&file.path, &bundle.folder.join(&file.path))?;
            }
            if file.executable
                && let Some(folder) = store.local_folder()
            {
                let path = folder.join(&file.path);
                make_executable(&path).map_err(RemoteError::io("make executable", &path))?;
            }
        }
        Ok(())
    }

    /// Before another attempt: nothing that the one before said of its end is taken for this one's.
    ///
    /// # Errors
    /// Those of the store.
    pub fn forget_failure(&self) -> Result<(), RemoteError> {
        Ok(self.out().remove(FAILURE_FILE)?)
    }

    /// The last that the job told of itself, if it is of this attempt.
    ///
    /// # Errors
    /// Those of the store.
    pub fn heartbeat(&self, id: &JobId) -> Result<Option<Heartbeat>, RemoteError> {
        Ok(self.read(HEARTBEAT_FILE)?.filter(|heartbeat: &Heartbeat| heartbeat.attempt == id.attempt))
    }

    /// Why the attempt failed, by its own words; `otherwise` where it left none.
    ///
    /// # Errors
    /// Those of the store.
    pub fn failure(&self, otherwise: Failure) -> Result<Failure, RemoteError> {
        Ok(self.read(FAILURE_FILE)?.unwrap_or(otherwise))
    }

    /// Whether a result is there.
    ///
    /// # Errors
    /// Those of the store.
    pub fn has_result(&self) -> Result<bool, RemoteError> {
        Ok(self.out().get(RESULT_FILE)?.is_some())
    }

    /// Copies what the job left into `into`.
    ///
    /// # Errors
    /// [`RemoteError::NoArtefact`], those of the store and of `into`.
    pub fn fetch(&self, id: &JobId, into: &Path) -> Result<(), RemoteError> {
        let out = self.out();
        let adapter = out.at(ADAPTER_DIR).list()?;
        let adapter = adapter.iter().map(|entry| format!("{ADAPTER_DIR}/{}", entry.path));
        for path in adapter.chain([METRICS_FILE.to_owned(), RESULT_FILE.to_owned()]) {
            if !out.get_file(&path, &into.join(&path))? {
                return Err(RemoteError::NoArtefact { id: id.clone(), what: path, place: format!("`{}`", out.url()) });
            }
        }
        Ok(())
    }

    /// Removes all of it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn remove(&self) -> Result<(), RemoteError> {
        Ok(self.store.remove_all()?)
    }

    /// The job's name.
    pub fn key(&self) -> &JobKey {
        &self.key
    }

    fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, RemoteError> {
        // Half a file is one that is being written: the next look finds it whole.
        Ok(self.out().get(path)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

impl From<ArtefactError> for RemoteError {
    fn from(error: ArtefactError) -> Self {
        match error {
            ArtefactError::Store { ref url, .. } => {
                Self::Transient { engine: format!("artefact store `{url}`"), message: error.to_string(), after: None }
            }
            error => Self::Artefacts(error),
        }
    }
}

fn make_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}
