mod azure_ml;
mod kubernetes;
mod options;
mod ray;
mod sagemaker;
mod slurm;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

pub use azure_ml::AzureMlOptions;
pub use kubernetes::{KubernetesOptions, TolerationOptions};
pub use options::{Provider, RemoteOptions};
pub use ray::RayOptions;
pub use sagemaker::SagemakerOptions;
pub use slurm::SlurmOptions;
pub use worker::WorkerOptions;

use super::{ConfigError, Options};
use crate::remote::Resources;

/// `backend = "remote"`, every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RemoteConfig {
    /// Who trains.
    pub provider: Provider,
    /// On what.
    pub resources: Resources,
    /// How long an attempt may take on a machine.
    pub timeout: Duration,
    /// How long it may wait for one.
    pub queue_timeout: Duration,
    /// Attempts at a job whose machine goes away.
    pub max_attempts: u32,
    /// USD, all attempts together.
    pub max_cost_usd: Option<f64>,
    /// USD an hour of one GPU, by kind.
    pub prices: BTreeMap<String, f64>,
    /// Where bundles and adapters lie between the machines.
    pub artefacts: Option<String>,
    /// Where the job's machine has the base model.
    pub base_model: Option<String>,
    /// The binary that the job runs.
    pub program: Option<PathBuf>,
    /// Whether secrets of the environment may be used: not for an operator's tenants.
    #[serde(skip)]
    pub secrets_of_environment: bool,
    /// What was given of all this, every path from the root: a job's record has it, so that its engine is found again.
    #[serde(skip)]
    pub given: Options,
    /// `[remote.ray]`
    pub ray: RayOptions,
    /// `[remote.slurm]`
    pub slurm: SlurmOptions,
    /// `[remote.kubernetes]`
    pub kubernetes: KubernetesOptions,
    /// `[remote.sagemaker]`
    pub sagemaker: SagemakerOptions,
    /// `[remote.azure_ml]`
    pub azure_ml: AzureMlOptions,
    /// `[remote.modal]`
    pub modal: WorkerOptions,
}

/// The kind of GPU that the reference configuration names.
const DEFAULT_GPU: &str = "A10G";

impl RemoteConfig {
    /// Fills in the defaults and checks the values.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] where no provider is named, [`ConfigError::Invalid`].
    pub fn new(options: &Options) -> Result<Self, ConfigError> {
        let own = &options.remote;
        let provider = options.backend_provider.ok_or_else(|| ConfigError::Missing {
            key: "backend_provider",
            remedy: "say who trains with `--backend-provider`: `ray`, `slurm`, `kubernetes`, `sagemaker`, `azure_ml` or `modal`"
                .to_owned(),
        })?;
        if let Some((kind, price)) = own.prices.iter().find(|(_, price)| !(price.is_finite() && **price >= 0.0)) {
            let value = format!("{price} for `{kind}`");
            let want = "give USD an hour of one GPU, 0 or more".to_owned();
            return Err(ConfigError::Invalid { key: "remote.prices", value, want });
        }
        if let Some(ceiling) = own.max_cost_usd.filter(|ceiling| !(ceiling.is_finite() && *ceiling > 0.0)) {
            let want = "give a positive number of USD".to_owned();
            return Err(ConfigError::Invalid { key: "remote.max_cost_usd", value: ceiling.to_string(), want });
        }
        let seconds = |given: Option<std::num::NonZeroU32>, default| {
            Duration::from_secs(given.map_or(default, |s| s.get().into()))
        };
        Ok(Self {
            provider,
            resources: Resources {
                gpu: match options.gpu.as_deref() {
                    Some("none") => None,
                    gpu => Some(gpu.unwrap_or(DEFAULT_GPU).to_owned()),
                },
                gpu_count: options.gpu_count.map_or(1, |n| n.get()),
                nodes: own.nodes.map_or(1, |n| n.get()),
                cpu: options.cpu.map_or(4, |n| n.get()),
                memory_mib: options.memory.map_or(16384, |n| n.get().into()),
            },
            timeout: seconds(options.timeout, 3600),
            queue_timeout: seconds(own.queue_timeout, 1800),
            max_attempts: own.max_attempts.map_or(3, |n| n.get()),
            max_cost_usd: own.max_cost_usd,
            prices: own.prices.clone(),
            artefacts: own.artefacts.clone(),
            base_model: own.remote_base_model.clone(),
            program: own.remote_program.clone(),
            secrets_of_environment: options.granted.secrets_of_environment(),
            given: given(options),
            ray: own.ray.clone(),
            slurm: own.slurm.clone(),
            kubernetes: own.kubernetes.clone(),
            sagemaker: own.sagemaker.clone(),
            azure_ml: own.azure_ml.clone(),
            modal: own.modal.clone(),
        })
    }
}

fn given(options: &Options) -> Options {
    let from_root = options.from_root();
    Options {
        tenant_id: from_root.tenant_id,
        backend: from_root.backend,
        backend_provider: from_root.backend_provider,
        gpu: from_root.gpu,
        gpu_count: from_root.gpu_count,
        cpu: from_root.cpu,
        memory: from_root.memory,
        timeout: from_root.timeout,
        remote: from_root.remote,
        ..Options::default()
    }
}
