use std::path::PathBuf;

use super::{Job, JobKey};

/// What a job's machine is handed: a folder, and the digest of all that is in it.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The job's name.
    pub key: JobKey,
    /// SHA-256 over `job.json`, which names the digests of everything else; 64 hexadecimal digits.
    pub digest: String,
    /// `job.json`, read.
    pub job: Job,
    /// The folder, whole and never changed.
    pub folder: PathBuf,
    /// What is in it, by path.
    pub files: Vec<BundleFile>,
}

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFile {
    /// Its path within the folder, with `/` between its parts: `base/config.json`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Whether it is a program.
    pub executable: bool,
}
