use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::Refused;

/// Why the approval store can't be used. What it had acknowledged before stays as it is.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each field is
pub enum ApprovalError {
    #[error("there is no approval store `{path}`: nothing was generated for review yet", path = path.display())]
    NotFound { path: PathBuf },

    #[error("`{path}` is there already: put it aside, or restore to another file with `--approvals`", path = path.display())]
    Exists { path: PathBuf },

    #[error("cannot make the folder `{path}` of the approval store ({source}): name another with `--approvals`", path = path.display())]
    Folder { path: PathBuf, source: std::io::Error },

    #[error("`{path}` is not an approval store: name one with `--approvals`", path = path.display())]
    NotAStore { path: PathBuf },

    #[error("the approval store `{path}` is of version {found}, this tunesmith knows {supported}: use a newer one", path = path.display())]
    NewerSchema { path: PathBuf, found: i64, supported: i64 },

    #[error("the approval store `{path}` is busy: another program writes to it and did not end within {patience_s} s; do it again", path = path.display())]
    Busy { path: PathBuf, patience_s: u64 },

    #[error("the disk of the approval store `{path}` is full: make room, then do it again; nothing of this was stored", path = path.display())]
    Full { path: PathBuf },

    #[error("the approval store `{path}` is damaged ({what}): put it aside and restore a copy of it, or the decisions of its journal with `tunesmith review restore`", path = path.display())]
    Damaged { path: PathBuf, what: String },

    /// A text is not the one that was approved.
    #[error("item {item} of `{path}` is not what {who} approved: its text was changed outside of Tunesmith; nothing of this store trains until it is restored", path = path.display())]
    Tampered { path: PathBuf, item: i64, who: String },

    #[error("cannot use the approval store `{path}` ({cause})", path = path.display())]
    Database { path: PathBuf, cause: rusqlite::Error },

    #[error("cannot use the journal `{path}` of the approval store ({source}): see who may write it, and whether the disk is full", path = path.display())]
    Journal { path: PathBuf, source: std::io::Error },

    #[error(transparent)]
    Refused(#[from] Refused),
}

impl ApprovalError {
    pub(super) fn of(path: &Path, patience_s: u64, cause: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match cause.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path, patience_s },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path, what: cause.to_string() },
            Some(ErrorCode::NotADatabase) => Self::NotAStore { path },
            _ => Self::Database { path, cause },
        }
    }
}
