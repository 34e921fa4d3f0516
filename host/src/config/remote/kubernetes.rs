use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[remote.kubernetes]`: a Kubernetes cluster.
///
/// Credentials are the kubeconfig's, or within a cluster those of the pod's service account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesOptions {
    /// The kubeconfig [default: `KUBECONFIG`, else `~/.kube/config`, else the service account of the pod that this runs in].
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one].
    pub context: Option<String>,
    /// The namespace of jobs [default: the context's].
    pub namespace: Option<String>,
    /// The image that jobs run in; where `claim` is not set, it has `tunesmith` in its path.
    pub image: Option<String>,
    /// Names of the secrets that the image's registry wants.
    pub image_pull_secrets: Vec<String>,
    /// The service account of jobs: on clouds, what their storage credentials hang on.
    pub service_account: Option<String>,
    /// Name of a secret whose keys are variables of the job's environment: credentials of the artefact store.
    pub env_from_secret: Option<String>,
    /// A persistent volume claim with the artefacts, for a `file://` address of `remote.artefacts`.
    pub claim: Option<String>,
    /// Where the folder of `remote.artefacts` lies within the claim [default: its root].
    pub claim_sub_path: Option<String>,
    /// What a GPU is called among resources [default: `nvidia.com/gpu`].
    pub gpu_resource: Option<String>,
    /// The label of nodes that tells their kind of GPU: `nvidia.com/gpu.product`. Without it, any kind will do.
    pub gpu_label: Option<String>,
    /// What the label says for a kind, where it is not the kind's own name: `A10G = "NVIDIA-A10G"`.
    pub gpu_label_values: BTreeMap<String, String>,
    /// Labels that a job's nodes must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that jobs are let onto in spite of.
    pub tolerations: Vec<TolerationOptions>,
    /// Seconds that a job has to save its state once it is asked to stop [default: 120].
    pub termination_grace_s: Option<u32>,
    /// Seconds that an ended job is kept for people to look at [default: 604800, a week].
    pub keep_s: Option<u32>,
}

/// A taint that a job is let onto in spite of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TolerationOptions {
    /// The taint's key; none means all.
    pub key: Option<String>,
    /// `Exists` or `Equal` [default: `Equal` where there is a value].
    pub operator: Option<String>,
    /// Its value.
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; none means all.
    pub effect: Option<String>,
}
