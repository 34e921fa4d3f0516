use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{AzureMlOptions, KubernetesOptions, RayOptions, SagemakerOptions, SlurmOptions, WorkerOptions};

/// Who trains, where it isn't this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Provider {
    /// A Ray cluster.
    Ray,
    /// A Slurm cluster.
    Slurm,
    /// A Kubernetes cluster.
    Kubernetes,
    /// Amazon SageMaker.
    Sagemaker,
    /// Azure Machine Learning.
    AzureMl,
    /// Modal, or `tunesmith serve --worker` of another machine.
    Modal,
}

impl Provider {
    /// Whether its settings are addresses and a tenant's own keys, and nothing that acts as this machine's user: Slurm's are programs,
    /// a kubeconfig names some, and the clouds' accounts are the machine's.
    pub fn keeps_tenants_apart(self) -> bool {
        matches!(self, Self::Ray | Self::Modal)
    }

    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ray => "ray",
            Self::Slurm => "slurm",
            Self::Kubernetes => "kubernetes",
            Self::Sagemaker => "sagemaker",
            Self::AzureMl => "azure_ml",
            Self::Modal => "modal",
        }
    }
}

/// `[remote]`: jobs on other machines.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Remote backends")]
pub struct RemoteOptions {
    /// Machines that train together [default: 1]
    #[arg(long, env = "TUNESMITH_NODES", value_name = "N")]
    pub nodes: Option<NonZeroU32>,
    /// Where bundles and adapters lie between the machines: `file:///mnt/shared/tunesmith`, `s3://bucket/prefix`,
    /// `az://container/prefix`, `https://host/folder`
    #[arg(long, env = "TUNESMITH_ARTEFACTS", value_name = "URL")]
    pub artefacts: Option<String>,
    /// Where the job's machine has the base model: a path of its own, or the address of a folder [default: it travels with
    /// the job]
    #[arg(long, env = "TUNESMITH_REMOTE_BASE_MODEL", value_name = "PATH")]
    pub remote_base_model: Option<String>,
    /// The tunesmith binary that the job runs, where its machine has another processor than this one [default: this one]
    #[arg(long, env = "TUNESMITH_REMOTE_PROGRAM", value_name = "FILE")]
    pub remote_program: Option<PathBuf>,
    /// Seconds that a job may wait for a machine [default: 1800]
    #[arg(long, env = "TUNESMITH_QUEUE_TIMEOUT", value_name = "SECONDS")]
    pub queue_timeout: Option<NonZeroU32>,
    /// Attempts at a job whose machine goes away [default: 3]
    #[arg(long, env = "TUNESMITH_MAX_ATTEMPTS", value_name = "N")]
    pub max_attempts: Option<NonZeroU32>,
    /// Most that a job may cost, all attempts together, by `[remote.prices]` [default: no limit]
    #[arg(long, env = "TUNESMITH_MAX_COST_USD", value_name = "USD")]
    pub max_cost_usd: Option<f64>,
    /// `[remote.prices]`: USD an hour of one GPU of each kind.
    #[arg(skip)]
    pub prices: BTreeMap<String, f64>,
    /// `[remote.ray]`
    #[arg(skip)]
    pub ray: RayOptions,
    /// `[remote.slurm]`
    #[arg(skip)]
    pub slurm: SlurmOptions,
    /// `[remote.kubernetes]`
    #[arg(skip)]
    pub kubernetes: KubernetesOptions,
    /// `[remote.sagemaker]`
    #[arg(skip)]
    pub sagemaker: SagemakerOptions,
    /// `[remote.azure_ml]`
    #[arg(skip)]
    pub azure_ml: AzureMlOptions,
    /// `[remote.modal]`
    #[arg(skip)]
    pub modal: WorkerOptions,
}

impl RemoteOptions {
    /// Every address that is set, with its key: what an operator grants a tenant one by one.
    pub fn addresses(&self) -> Vec<(&'static str, &str)> {
        let base = self.remote_base_model.as_deref().filter(|base| base.contains("://"));
        let all = [
            ("remote.artefacts", self.artefacts.as_deref()),
            ("remote.remote_base_model", base),
            ("remote.ray.url", self.ray.url.as_deref()),
            ("remote.modal.url", self.modal.url.as_deref()),
            ("remote.sagemaker.endpoint", self.sagemaker.endpoint.as_deref()),
            ("remote.sagemaker.logs_endpoint", self.sagemaker.logs_endpoint.as_deref()),
            ("remote.azure_ml.authority", self.azure_ml.authority.as_deref()),
            ("remote.azure_ml.management", self.azure_ml.management.as_deref()),
            ("remote.azure_ml.identity", self.azure_ml.identity.as_deref()),
            ("remote.azure_ml.blob_endpoint", self.azure_ml.blob_endpoint.as_deref()),
        ];
        all.into_iter().filter_map(|(key, url)| Some((key, url?))).collect()
    }

    /// Every file of this machine that is named, with its key.
    pub fn files(&self) -> Vec<(&'static str, &Path)> {
        let all = [
            ("remote.remote_program", &self.remote_program),
            ("remote.ray.token_file", &self.ray.token_file),
            ("remote.kubernetes.kubeconfig", &self.kubernetes.kubeconfig),
            ("remote.modal.token_file", &self.modal.token_file),
            ("remote.modal.key_file", &self.modal.key_file),
        ];
        all.into_iter().filter_map(|(key, file)| Some((key, file.as_deref()?))).collect()
    }

    /// The same files, to be resolved against the folder of the configuration.
    pub(in crate::config) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { remote_program, ray, kubernetes, modal, .. } = self;
        let files = remote_program.iter_mut().chain(&mut ray.token_file).chain(&mut kubernetes.kubeconfig);
        files.chain(&mut modal.token_file).chain(&mut modal.key_file)
    }
}
