//! Engines that train elsewhere. Read [`TrainingBackend`] first: what an engine is to us; then `drive`: what becomes of a job.

mod backend;
mod error;
mod job_files;
mod persistent;
pub mod sagemaker;
#[cfg(test)]
mod tests;

pub use backend::{
    Capabilities, GRACE, JobHandle, JobState, JobStatus, LogChunk, Resources, Submission, TrainingBackend,
};
pub use error::RemoteError;
pub use job_files::JobFiles;
pub use persistent::Persistent;

use crate::config::{Provider, RemoteConfig};

/// The engine that the configuration names.
///
/// # Errors
/// [`RemoteError::Config`], [`RemoteError::Credentials`] where they can't be read, [`RemoteError::Program`].
pub fn open(config: &RemoteConfig) -> Result<Box<dyn TrainingBackend>, RemoteError> {
    match config.provider {
        Provider::Sagemaker => Ok(Box::new(sagemaker::Sagemaker::new(config)?)),
        Provider::Ray
        | Provider::Slurm
        | Provider::Kubernetes
        | Provider::AzureMl
        | Provider::Modal => {
            Err(RemoteError::Config { key: "backend_provider", message: "is not there yet".to_owned() })
        }
    }
}
