//! What a job reads: its bundle and its base, from wherever they are.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Bundle, DATASET_FILE, JOB_FILE, JobError, bundle};
use crate::artefacts::ArtefactStore;

/// In a job's output: what was fetched of its inputs. Not copied anywhere.
const FETCHED: &str = ".inputs";

/// The bundle of the `job.json` at `job`, a path or an address; of an address, what it names is fetched first.
pub(super) fn bundle(job: &str, out: &Path) -> Result<Bundle, JobError> {
    let Some((folder, _)) = job.split_once("://").and_then(|_| job.rsplit_once('/')) else {
        return Bundle::open(Path::new(job).parent().unwrap_or(Path::new(".")));
    };
    let store = ArtefactStore::open(folder, true)?;
    let to = out.join(FETCHED).join("bundle");
    fetch(&store, JOB_FILE, &to)?;
    let path = to.join(JOB_FILE);
    let text = fs::read(&path).map_err(JobError::io("read", &path))?;
    for file in bundle::parse(&path, &text)?.files.keys() {
        fetch(&store, file, &to)?;
    }
    Bundle::open(&to)
}

/// Where the base lies on this machine.
pub(super) fn base(bundle: &Bundle, out: &Path) -> Result<PathBuf, JobError> {
    let from = &bundle.job.base_model.from;
    if !from.contains("://") {
        return Ok(bundle.folder.join(from)); // an absolute path replaces the folder
    }
    let store = ArtefactStore::open(from, true)?;
    let to = out.join(FETCHED).join("base");
    for entry in store.list()? {
        fetch(&store, &entry.path, &to)?;
    }
    match to.is_dir() {
        true => Ok(to),
        false => Err(JobError::NoBase { url: from.clone() }),
    }
}

fn fetch(store: &ArtefactStore, path: &str, to: &Path) -> Result<(), JobError> {
    let file = to.join(path);
    // The digests tell whether what is there is that.
    if file.is_file() && path != JOB_FILE && path != DATASET_FILE {
        return Ok(());
    }
    match store.get_file(path, &file)? {
        true => Ok(()),
        false => Err(JobError::NoInput { url: format!("{}/{path}", store.url()) }),
    }
}
