use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `[remote.sagemaker]`: training jobs of Amazon SageMaker. Keys are those that AWS's own tools find: `AWS_ACCESS_KEY_ID` and
/// `AWS_SECRET_ACCESS_KEY`, a role of the machine's, or a web identity.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SagemakerOptions {
    /// `eu-central-1` [default: `AWS_REGION`, then `AWS_DEFAULT_REGION`].
    pub region: Option<String>,
    /// The role that the job runs as: it reads and writes the bucket, and nothing of ours does.
    pub role_arn: Option<String>,
    /// An image of ECR whose entry point is `tunesmith sagemaker-entrypoint`: `deploy/sagemaker/Dockerfile` builds one.
    pub image: Option<String>,
    /// The machines, where the table of `gpu` x `gpu_count` isn't what is wanted: `ml.p4d.24xlarge`.
    pub instance_type: Option<String>,
    /// Machines that AWS may take back, at a lower price: the job goes on from its checkpoint then.
    pub spot: bool,
    /// GiB of each machine's volume [default: 50].
    pub volume_gb: Option<u32>,
    /// Subnets that the machines are in [default: SageMaker's own network].
    pub subnets: Vec<String>,
    /// Their security groups.
    pub security_group_ids: Vec<String>,
    /// For the bill.
    pub tags: BTreeMap<String, String>,
    /// Another address of SageMaker's: a VPC endpoint [default: the region's].
    pub endpoint: Option<String>,
    /// Another address of CloudWatch's logs [default: the region's].
    pub logs_endpoint: Option<String>,
}
