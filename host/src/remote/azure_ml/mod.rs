//! Command jobs of Azure Machine Learning.
//!
//! ```text
//!  datastore  tunesmith/{key}/bundle/   --downloaded-->  ${{inputs.bundle}}   `tunesmith train`, in the environment's container
//!             tunesmith/{key}/out/      <---mounted--->  ${{outputs.out}}     what is written is there at once
//! ```
//!
//! The output is mounted, so that a checkpoint outlives the machine that wrote it. Jobs stay in the workspace's history, where they cost
//! nothing.

mod arm;
mod command_job;
mod datastores;
mod status;

use std::path::Path;

use jiff::Timestamp;
use reqwest::Method;
use serde_json::Value;

use self::arm::{Arm, ClientSecret, Place, Refusal};
use self::command_job::{FOLDER, Fixed, compute_id, environment_id};
use self::datastores::Datastores;
use super::{
    Capabilities, JobFiles, JobHandle, JobState, JobStatus, LogChunk, RemoteError, Resources, Submission,
    TrainingBackend,
};
use crate::artefacts::ArtefactStore;
use crate::config::RemoteConfig;
use crate::job::{Failure, FailureKind, JobId};

/// Where Azure ML leaves what a job writes: the first for a single process, the second for the first of several.
const LOGS: [&str; 2] = ["user_logs/std_log.txt", "user_logs/std_log_process_0.txt"];

/// Azure ML, of one workspace.
pub(super) struct AzureMl {
    arm: Arm,
    fixed: Fixed,
    datastores: Datastores,
    log_datastore: String,
}

impl AzureMl {
    /// What `[remote.azure_ml]` describes.
    ///
    /// # Errors
    /// [`RemoteError::Config`], [`RemoteError::Credentials`] where the environment's may not be used.
    pub(super) fn new(config: &RemoteConfig) -> Result<Self, RemoteError> {
        let options = &config.azure_ml;
        let needed = |value: &Option<String>, key, what: &str| {
            value.clone().ok_or_else(|| RemoteError::Config { key, message: format!("is missing: give {what}") })
        };
        let subscription = needed(&options.subscription, "remote.azure_ml.subscription", "the subscription's id")?;
        let group =
            needed(&options.resource_group, "remote.azure_ml.resource_group", "the workspace's resource group")?;
        let workspace = needed(&options.workspace, "remote.azure_ml.workspace", "the workspace's name")?;
        let compute = needed(&options.compute, "remote.azure_ml.compute", "the name of a compute cluster")?;
        let environment = needed(
            &options.environment,
            "remote.azure_ml.environment",
            "an environment of the workspace, `name:version`",
        )?;
        if !config.secrets_of_environment {
            return Err(RemoteError::Credentials {
                engine: "Azure ML".to_owned(),
                message: "a tenant of an operator may not use those of this machine".to_owned(),
                remedy: "run the job as the operator".to_owned(),
            });
        }
        let workspace = format!(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices/workspaces/{workspace}"
        );
        let environment = environment_id(&workspace, &environment)
            .map_err(|message| RemoteError::Config { key: "remote.azure_ml.environment", message })?;
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let client = variable("AZURE_CLIENT_ID");
        let secret = match (variable("AZURE_TENANT_ID"), &client, variable("AZURE_CLIENT_SECRET")) {
            (Some(tenant), Some(client), Some(secret)) => Some(ClientSecret { tenant, client: client.clone(), secret }),
            _ => None,
        };
        let address =
            |own: &Option<String>, default: &str| own.as_deref().unwrap_or(default).trim_end_matches('/').to_owned();
        let fixed = Fixed {
            environment,
            compute: compute_id(&workspace, &compute),
            instance_type: options.instance_type.clone(),
            spot: options.spot,
            datastore: options.datastore.clone().unwrap_or_else(|| "workspaceblobstore".to_owned()),
        };
        let place = Place {
            management: address(&options.management, "https://management.azure.com"),
            authority: address(&options.authority, "https://login.microsoftonline.com"),
            audience: address(&options.audience, "https://management.azure.com"),
            identity: address(&options.identity, "http://169.254.169.254"),
            secret,
            identity_client: client,
            workspace,
        };
        Ok(Self {
            arm: Arm::new(place)?,
            fixed,
            datastores: Datastores::new(options.blob_endpoint.clone()),
            log_datastore: options.log_datastore.clone().unwrap_or_else(|| "workspaceartifactstore".to_owned()),
        })
    }

    fn files<T>(&self, id: &JobId, work: impl Fn(&JobFiles) -> Result<T, RemoteError>) -> Result<T, RemoteError> {
        let within = |store: &ArtefactStore| work(&JobFiles::new(&store.at(FOLDER), &id.key));
        self.datastores.within(&self.arm, &self.fixed.datastore, within)
    }

    fn job(&self, id: &JobId) -> Result<Option<Value>, RemoteError> {
        match self.arm.call(Method::GET, &format!("jobs/{id}"), None)? {
            Ok(job) => Ok(Some(job)),
            Err(refusal) if refusal.status == reqwest::StatusCode::NOT_FOUND && !is_place(&refusal) => Ok(None),
            Err(refusal) => Err(self.arm.refused(&refusal)),
        }
    }

    /// The handle of `job`, if it is the same attempt.
    fn same(&self, attempt: &Submission<'_>, job: &Value) -> Result<JobHandle, RemoteError> {
        match job["properties"]["tags"]["digest"].as_str() {
            Some(digest) if digest == attempt.bundle.digest => Ok(handle(&attempt.id, job)),
            other => {
                let message = format!("digest `{}`", other.unwrap_or("none"));
                Err(RemoteError::Conflict { engine: self.describe(), id: attempt.id.clone(), message })
            }
        }
    }

    /// What the workspace's history has of a failure: the management API tells nothing.
    fn history(&self, job: &Value, id: &JobId) -> Option<String> {
        let tracking = job["properties"]["services"]["Tracking"]["endpoint"].as_str()?;
        let (scheme, rest) = tracking.split_once("://")?;
        let host = rest.split('/').next()?;
        // Our token goes to Azure alone; another address than Azure's own is that of a test.
        let scheme = match scheme {
            "azureml" | "https" if host.ends_with(".api.azureml.ms") => "https",
            "http" if self.arm.describe().ends_with(&format!("http://{host}")) => "http",
            _ => return None,
        };
        let url = format!("{scheme}://{host}/history/v1.0{}/runs/{id}/details", self.arm.workspace());
        let details = self.arm.call_service(&url).ok()?.ok()?;
        let error = &details["error"]["error"];
        let message = error["message"].as_str()?;
        Some(error["code"].as_str().map_or_else(|| message.to_owned(), |code| format!("{code}: {message}")))
    }

    fn refused_job(&self, refusal: &Refusal) -> RemoteError {
        let told = refusal.to_string();
        let lower = told.to_lowercase();
        let machine = ["quota", "compute", "instancetype", "instance type", "vm size", "vmsize", "cluster"];
        if machine.iter().any(|word| lower.contains(word)) {
            return RemoteError::Unschedulable { engine: self.describe(), message: told };
        }
        self.arm.refused(refusal)
    }
}

impl TrainingBackend for AzureMl {
    fn describe(&self) -> String {
        self.arm.describe()
    }

    fn probe(&self, resources: &Resources) -> Result<Capabilities, RemoteError> {
        let Some(compute) = self.fixed.compute.strip_prefix(&format!("{}/", self.arm.workspace())) else {
            return Ok(Capabilities::default()); // of another workspace: it is asked when a job is handed in
        };
        let compute = match self.arm.call(Method::GET, compute, None)? {
            Ok(compute) => compute,
            Err(refusal) => return Err(self.refused_job(&refusal)),
        };
        let properties = &compute["properties"]["properties"];
        let most = properties["scaleSettings"]["maxNodeCount"].as_u64();
        if let Some(most) = most.filter(|&most| most < resources.nodes.into()) {
            let message = format!("`{}` has at most {most} machines", self.fixed.compute);
            return Err(RemoteError::Unschedulable { engine: self.describe(), message });
        }
        let size = properties["vmSize"].as_str().unwrap_or("machines of a size that it doesn't tell");
        let most = most.map_or_else(String::new, |most| format!(", at most {most}"));
        Ok(Capabilities { version: None, gpus: Vec::new(), notes: vec![format!("{size}{most}")] })
    }

    fn submit(&self, attempt: &Submission<'_>) -> Result<JobHandle, RemoteError> {
        // A PUT of a name that is there would change that job's tags, and start nothing.
        if let Some(job) = self.job(&attempt.id)? {
            return self.same(attempt, &job);
        }
        self.files(&attempt.id, |files| {
            files.upload(attempt.bundle)?;
            files.forget_failure()
        })?;
        let body = command_job::body(&self.fixed, attempt);
        match self.arm.call(Method::PUT, &format!("jobs/{}", attempt.id), Some(&body))? {
            Ok(job) => self.same(attempt, &job),
            // Another host, or a call of ours whose answer was lost.
            Err(refusal) => match self.job(&attempt.id)? {
                Some(job) => self.same(attempt, &job),
                None => Err(self.refused_job(&refusal)),
            },
        }
    }

    fn find(&self, id: &JobId) -> Result<Option<JobHandle>, RemoteError> {
        Ok(self.job(id)?.map(|job| handle(id, &job)))
    }

    fn status(&self, of: &JobHandle) -> Result<JobStatus, RemoteError> {
        let gone = || RemoteError::NotFound { engine: self.describe(), id: of.id.clone() };
        let job = self.job(&of.id)?.ok_or_else(gone)?;
        let told = job["properties"]["status"].as_str().unwrap_or_default();
        let state = match status::state(told, || self.history(&job, &of.id)) {
            JobState::Failed(failure) => JobState::Failed(self.files(&of.id, |files| files.failure(failure.clone()))?),
            // The engine's own limit ends a job as if somebody had cancelled it.
            JobState::Cancelled => {
                let none = Failure { kind: FailureKind::Unknown, exit_code: None, message: String::new() };
                let failure = self.files(&of.id, |files| files.failure(none.clone()))?;
                if failure.kind == FailureKind::Timeout { JobState::Failed(failure) } else { JobState::Cancelled }
            }
            state => state,
        };
        let heartbeat = self.files(&of.id, |files| files.heartbeat(&of.id))?;
        Ok(JobStatus { state, heartbeat })
    }

    fn logs(&self, of: &JobHandle, from: u64) -> Result<LogChunk, RemoteError> {
        let bytes = self.datastores.within(&self.arm, &self.log_datastore, |store| {
            let folder = store.at(&format!("ExperimentRun/dcid.{}", of.id));
            for path in LOGS {
                if let Some(bytes) = folder.get_from(path, from)? {
                    return Ok(bytes);
                }
            }
            Ok(Vec::new())
        })?;
        Ok(LogChunk { next: from + bytes.len() as u64, bytes })
    }

    fn cancel(&self, of: &JobHandle) -> Result<(), RemoteError> {
        match self.arm.call(Method::POST, &format!("jobs/{}/cancel", of.id), None)? {
            Ok(_) => Ok(()),
            // It has ended, or was never there.
            Err(refusal) => match self.job(&of.id)? {
                None => Ok(()),
                Some(job)
                    if matches!(job["properties"]["status"].as_str(), Some("Completed" | "Failed" | "Canceled")) =>
                {
                    Ok(())
                }
                Some(_) => Err(self.arm.refused(&refusal)),
            },
        }
    }

    fn fetch(&self, of: &JobHandle, into: &Path) -> Result<(), RemoteError> {
        self.files(&of.id, |files| files.fetch(&of.id, into))
    }

    fn cleanup(&self, id: &JobId) -> Result<(), RemoteError> {
        self.files(id, JobFiles::remove)
    }
}

fn handle(id: &JobId, job: &Value) -> JobHandle {
    let created = job["systemData"]["createdAt"].as_str().and_then(|text| text.parse().ok());
    JobHandle {
        id: id.clone(),
        native: job["id"].as_str().map_or_else(|| id.to_string(), str::to_owned),
        submitted_at: created.unwrap_or_else(Timestamp::now),
    }
}

/// What is not there is the workspace, or what it is in: no job's absence.
fn is_place(refusal: &Refusal) -> bool {
    matches!(refusal.code.as_str(), "ResourceGroupNotFound" | "SubscriptionNotFound" | "InvalidSubscriptionId")
        || (refusal.code == "ResourceNotFound"
            && refusal.message.contains("/workspaces/")
            && !refusal.message.contains("/jobs/"))
}
