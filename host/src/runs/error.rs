use std::path::PathBuf;

/// Why the record of a run can't be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each field is
pub enum RunsError {
    #[error("there is no run `{id}` in `{folder}`: `tunesmith runs list` has those there are", folder = folder.display())]
    Unknown { id: String, folder: PathBuf },

    #[error("run `{id}` is another process's at this moment: wait for its end, or end that process")]
    Held { id: String },

    #[error("run `{id}` has finished: its adapter is `{adapter}`", adapter = adapter.display())]
    Finished { id: String, adapter: PathBuf },

    #[error("cannot use the record of a run `{path}` ({source})", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },

    #[error("`{path}` is not the record of a run ({source}): `tunesmith finetune` starts the run anew", path = path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
}
