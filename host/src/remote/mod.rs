//! Engines that train elsewhere. Read [`TrainingBackend`] first: what an engine is to us; then [`Drive`]: what becomes of a job.

mod azure_ml;
mod backend;
pub mod cost;
mod drive;
mod error;
mod job_files;
mod jobs;
mod kubernetes;
mod logs;
mod persistent;
mod ray;
pub mod sagemaker;
mod slurm;
#[cfg(test)]
mod tests;
mod verify;
pub(crate) mod worker;

pub use backend::{
    Capabilities, GRACE, JobHandle, JobState, JobStatus, LogChunk, Resources, Submission, TrainingBackend,
};
pub use drive::{Done, Drive, FETCHED};
pub use error::RemoteError;
pub use job_files::JobFiles;
pub use jobs::{AttemptRecord, HeldJob, JobRecord, JobStore, RecordState};
pub use persistent::Persistent;

use crate::config::{Provider, RemoteConfig};

/// The engine that the configuration names.
///
/// # Errors
/// [`RemoteError::Config`], [`RemoteError::Credentials`] where they can't be read, [`RemoteError::Program`].
pub fn open(config: &RemoteConfig) -> Result<Box<dyn TrainingBackend>, RemoteError> {
    Ok(match config.provider {
        Provider::Ray => Box::new(ray::Ray::new(config)?),
        Provider::Slurm => Box::new(slurm::Slurm::new(config)?),
        Provider::Kubernetes => Box::new(kubernetes::Kubernetes::new(config)?),
        Provider::Sagemaker => Box::new(sagemaker::Sagemaker::new(config)?),
        Provider::AzureMl => Box::new(azure_ml::AzureMl::new(config)?),
        Provider::Modal => Box::new(worker::Worker::new(config)?),
    })
}
