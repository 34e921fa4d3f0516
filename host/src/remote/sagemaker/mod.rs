//! Training jobs of Amazon SageMaker.
//!
//! ```text
//!  s3://bucket/prefix/{key}/bundle/   --channel `bundle`-->  /opt/ml/input/data/bundle     the image's `tunesmith sagemaker-entrypoint`
//!  s3://bucket/prefix/{key}/out/      <--checkpoints----->  /opt/ml/checkpoints           runs the bundle's `tunesmith train` over them
//!  s3://bucket/prefix/{key}/model/    <-------------------  /opt/ml/model                 for SageMaker's own hosting
//! ```
//!
//! SageMaker copies checkpoints while the job runs, and back where it starts anew: a job whose machine goes away goes on, and the host
//! reads heartbeats and fetches the adapter there without asking SageMaker. A finished training job can't be removed there, and costs
//! nothing.

mod api;
mod instances;
mod logs;
mod status;
mod training_job;

use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use self::api::{Api, Refusal};
use self::logs::Logs;
use self::status::Description;
use self::training_job::Fixed;
pub use self::training_job::{CHANNEL, CHECKPOINTS};
use super::{
    Capabilities, JobFiles, JobHandle, JobState, JobStatus, LogChunk, RemoteError, Resources, Submission,
    TrainingBackend,
};
use crate::artefacts::ArtefactStore;
use crate::config::RemoteConfig;
use crate::job::JobId;

/// SageMaker, of one account in one region.
pub struct Sagemaker {
    api: Api,
    logs: Logs,
    artefacts: ArtefactStore,
    fixed: Fixed,
}

impl Sagemaker {
    /// What `[remote.sagemaker]` describes.
    ///
    /// # Errors
    /// [`RemoteError::Config`], [`RemoteError::Credentials`] where the environment's may not be used.
    pub fn new(config: &RemoteConfig) -> Result<Self, RemoteError> {
        let options = &config.sagemaker;
        let needed = |value: &Option<String>, key, what: &str| {
            value.clone().ok_or_else(|| RemoteError::Config { key, message: format!("is missing: give {what}") })
        };
        let role_arn = needed(&options.role_arn, "remote.sagemaker.role_arn", "the role that the job runs as")?;
        let image = needed(
            &options.image,
            "remote.sagemaker.image",
            "an image of ECR whose entry point is `tunesmith sagemaker-entrypoint`",
        )?;
        let artefacts = needed(&config.artefacts, "remote.artefacts", "a bucket's folder, `s3://bucket/prefix`")?;
        if !artefacts.starts_with("s3://") {
            let message = format!("is `{artefacts}`, and SageMaker reads S3 alone: give `s3://bucket/prefix`");
            return Err(RemoteError::Config { key: "remote.artefacts", message });
        }
        if !config.secrets_of_environment {
            return Err(RemoteError::Credentials {
                engine: "SageMaker".to_owned(),
                message: "a tenant of an operator may not use those of this machine".to_owned(),
                remedy: "run the job as the operator".to_owned(),
            });
        }
        let variables: Vec<_> = std::env::vars()
            .filter(|(name, _)| name.starts_with("AWS_"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        let region = options.region.clone().or_else(|| named(&variables, "aws_region"));
        let region = region.or_else(|| named(&variables, "aws_default_region"));
        let region = needed(&region, "remote.sagemaker.region", "the region, `eu-central-1`, or set AWS_REGION")?;
        let endpoint = |own: &Option<String>, service: &str| {
            own.clone().unwrap_or_else(|| format!("https://{service}.{region}.{}", domain(&region)))
        };
        let credentials = api::credentials(variables, &region);
        let credentials =
            credentials.map_err(|message| RemoteError::Config { key: "remote.sagemaker.region", message })?;
        let sagemaker = endpoint(&options.endpoint, "api.sagemaker");
        let logs = endpoint(&options.logs_endpoint, "logs");
        Ok(Self {
            api: Api::new(credentials.clone(), &region, &sagemaker, "sagemaker", "SageMaker")?,
            logs: Logs::new(Api::new(credentials, &region, &logs, "logs", "Logs_20140328")?),
            artefacts: ArtefactStore::open(&artefacts, true)?,
            fixed: Fixed { role_arn, image, options: options.clone() },
        })
    }

    fn files(&self, id: &JobId) -> JobFiles {
        JobFiles::new(&self.artefacts, &id.key)
    }

    fn instance_type(&self, resources: &Resources) -> Result<String, RemoteError> {
        if let Some(named) = &self.fixed.options.instance_type {
            return Ok(named.clone());
        }
        let chosen = instances::instance_type(resources).map(str::to_owned);
        chosen.map_err(|message| RemoteError::Unschedulable { engine: self.describe(), message })
    }

    fn description(&self, id: &JobId) -> Result<Option<Description>, RemoteError> {
        let body = json!({ "TrainingJobName": id.to_string() });
        match self.api.call::<Description>("DescribeTrainingJob", &body)? {
            Ok(description) => Ok(Some(description)),
            Err(refusal) if is_unknown_job(&refusal) => Ok(None),
            Err(refusal) => Err(self.api.refused(&refusal)),
        }
    }

    /// The attempt that has the name already, if it is the same.
    fn taken(&self, attempt: &Submission<'_>) -> Result<Option<JobHandle>, RemoteError> {
        let Some(there) = self.description(&attempt.id)? else { return Ok(None) };
        match &there.hyper_parameters.digest {
            Some(digest) if *digest == attempt.bundle.digest => Ok(Some(handle(&attempt.id, &there))),
            other => {
                let message = format!("digest `{}`", other.as_deref().unwrap_or("none"));
                Err(RemoteError::Conflict { engine: self.describe(), id: attempt.id.clone(), message })
            }
        }
    }

    fn refused_job(&self, refusal: &Refusal) -> RemoteError {
        // An instance type that the region doesn't know is a validation error; one that the account may not have, a limit.
        let is_machine = refusal.message.contains("nstanceType") || refusal.message.contains("nstance type");
        let is_validation = refusal.code == "ValidationException" && is_machine;
        if is_validation || refusal.code == "ResourceLimitExceeded" || refusal.code.starts_with("Capacity") {
            return RemoteError::Unschedulable { engine: self.describe(), message: refusal.to_string() };
        }
        self.api.refused(refusal)
    }
}

impl TrainingBackend for Sagemaker {
    fn describe(&self) -> String {
        self.api.describe()
    }

    fn probe(&self, resources: &Resources) -> Result<Capabilities, RemoteError> {
        let machine = self.instance_type(resources)?;
        let body = json!({ "MaxResults": 1 });
        if let Err(refusal) = self.api.call::<Value>("ListTrainingJobs", &body)? {
            return Err(self.api.refused(&refusal));
        }
        let spot = if self.fixed.options.spot { ", spot" } else { "" };
        Ok(Capabilities {
            version: None,
            gpus: instances::kinds().into_iter().map(str::to_owned).collect(),
            notes: vec![format!("{} x {machine}{spot}", resources.nodes)],
        })
    }

    fn submit(&self, attempt: &Submission<'_>) -> Result<JobHandle, RemoteError> {
        let machine = self.instance_type(attempt.resources)?;
        if let Some(handle) = self.taken(attempt)? {
            return Ok(handle);
        }
        let files = self.files(&attempt.id);
        files.upload(attempt.bundle)?;
        files.forget_failure()?;
        let folder = format!("{}/{}", self.artefacts.url(), attempt.id.key);
        let body = training_job::body(&self.fixed, &machine, attempt, &folder);
        match self.api.call::<Created>("CreateTrainingJob", &body)? {
            Ok(created) => {
                Ok(JobHandle { id: attempt.id.clone(), native: created.arn, submitted_at: Timestamp::now() })
            }
            // Another host, or a call of ours whose answer was lost.
            Err(refusal) if refusal.code == "ResourceInUse" => {
                self.taken(attempt)?.ok_or_else(|| self.api.refused(&refusal))
            }
            Err(refusal) => Err(self.refused_job(&refusal)),
        }
    }

    fn find(&self, id: &JobId) -> Result<Option<JobHandle>, RemoteError> {
        Ok(self.description(id)?.map(|there| handle(id, &there)))
    }

    fn status(&self, of: &JobHandle) -> Result<JobStatus, RemoteError> {
        let gone = || RemoteError::NotFound { engine: self.describe(), id: of.id.clone() };
        let there = self.description(&of.id)?.ok_or_else(gone)?;
        let files = self.files(&of.id);
        let state = match there.state() {
            JobState::Failed(failure) if there.is_trainers_failure() => JobState::Failed(files.failure(failure)?),
            state => state,
        };
        Ok(JobStatus { state, heartbeat: files.heartbeat(&of.id)? })
    }

    fn logs(&self, of: &JobHandle, from: u64) -> Result<LogChunk, RemoteError> {
        self.logs.read(&of.id, from)
    }

    fn cancel(&self, of: &JobHandle) -> Result<(), RemoteError> {
        let body = json!({ "TrainingJobName": of.id.to_string() });
        match self.api.call::<Value>("StopTrainingJob", &body)? {
            Ok(_) => Ok(()),
            // It has ended, or is being stopped; or it was never there.
            Err(refusal) => match self.description(&of.id)? {
                None => Ok(()),
                Some(there) if there.state().is_final() || there.training_job_status == "Stopping" => Ok(()),
                Some(_) => Err(self.api.refused(&refusal)),
            },
        }
    }

    fn fetch(&self, of: &JobHandle, into: &Path) -> Result<(), RemoteError> {
        self.files(&of.id).fetch(&of.id, into)
    }

    fn cleanup(&self, id: &JobId) -> Result<(), RemoteError> {
        self.files(id).remove()
    }
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "TrainingJobArn")]
    arn: String,
}

fn handle(id: &JobId, there: &Description) -> JobHandle {
    let created = there.creation_time.and_then(|seconds| Timestamp::from_second(seconds as i64).ok());
    JobHandle {
        id: id.clone(),
        native: there.training_job_arn.clone(),
        submitted_at: created.unwrap_or_else(Timestamp::now),
    }
}

fn is_unknown_job(refusal: &Refusal) -> bool {
    refusal.code == "ResourceNotFound"
        || (refusal.code == "ValidationException" && refusal.message.contains("Requested resource not found"))
}

fn named(variables: &[(String, String)], name: &str) -> Option<String> {
    variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

/// China's regions have another one.
fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}
