//! Engines that train elsewhere. Read [`TrainingBackend`] first: what an engine is to us; then `drive`: what becomes of a job.

mod backend;
mod cost;
mod error;
mod job_files;
mod kubernetes;
mod persistent;

pub use backend::{
    Capabilities, GRACE, JobHandle, JobState, JobStatus, LogChunk, Resources, Submission, TrainingBackend,
};
pub use cost::ceiling;
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
        Provider::Kubernetes => Ok(Box::new(kubernetes::Kubernetes::new(config)?)),
        Provider::Ray
        | Provider::Slurm
        | Provider::Sagemaker
        | Provider::AzureMl
        | Provider::Modal => {
            Err(RemoteError::Config { key: "backend_provider", message: "is not there yet".to_owned() })
        }
    }
}
