//! `CreateTrainingJob`'s body: a submission in SageMaker's words.

use serde_json::{Value, json};

use crate::config::SagemakerOptions;
use crate::remote::{GRACE, Submission};

/// What the entry point reads its bundle from: `/opt/ml/input/data/bundle`.
pub const CHANNEL: &str = "bundle";
/// Where the job writes; SageMaker keeps it in step with the artefact store's `out/`, and fills it from there at the start.
pub const CHECKPOINTS: &str = "/opt/ml/checkpoints";

const DEFAULT_VOLUME_GB: u32 = 50;
/// SageMaker's own limit of a tag's value.
const TAG_VALUE: usize = 256;

/// What the configuration says of every job.
#[derive(Debug, Clone)]
pub(super) struct Fixed {
    pub role_arn: String,
    pub image: String,
    pub options: SagemakerOptions,
}

/// The body; `folder` is the job's folder in the artefact store, `s3://bucket/prefix/key`.
pub(super) fn body(fixed: &Fixed, instance_type: &str, attempt: &Submission<'_>, folder: &str) -> Value {
    let options = &fixed.options;
    let runtime_s = (attempt.timeout + GRACE).as_secs();
    let mut stopping = json!({ "MaxRuntimeInSeconds": runtime_s });
    if options.spot {
        // It counts the waiting, and has to be at least the running.
        stopping["MaxWaitTimeInSeconds"] = json!(runtime_s + attempt.queue_timeout.as_secs());
    }
    let tags = attempt.labels.iter().chain(&options.tags);
    let tags: Vec<_> = tags
        .map(|(key, value)| json!({ "Key": key, "Value": value.chars().take(TAG_VALUE).collect::<String>() }))
        .collect();
    let mut body = json!({
        "TrainingJobName": attempt.id.to_string(),
        "RoleArn": fixed.role_arn,
        "AlgorithmSpecification": { "TrainingImage": fixed.image, "TrainingInputMode": "File" },
        // Of texts alone. Describe tells them again, and the entry point reads them.
        "HyperParameters": {
            "job": attempt.id.key.as_str(),
            "attempt": attempt.id.attempt.to_string(),
            "digest": attempt.bundle.digest,
            "ranks_per_node": attempt.resources.ranks_per_node().to_string(),
        },
        "InputDataConfig": [{
            "ChannelName": CHANNEL,
            "DataSource": { "S3DataSource": {
                "S3DataType": "S3Prefix",
                "S3Uri": format!("{folder}/bundle/"),
                "S3DataDistributionType": "FullyReplicated",
            } },
        }],
        "OutputDataConfig": { "S3OutputPath": format!("{folder}/model") },
        "CheckpointConfig": { "S3Uri": format!("{folder}/out"), "LocalPath": CHECKPOINTS },
        "ResourceConfig": {
            "InstanceType": instance_type,
            "InstanceCount": attempt.resources.nodes,
            "VolumeSizeInGB": options.volume_gb.unwrap_or(DEFAULT_VOLUME_GB),
        },
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": options.spot,
        "Tags": tags,
    });
    if !options.subnets.is_empty() {
        body["VpcConfig"] = json!({ "Subnets": options.subnets, "SecurityGroupIds": options.security_group_ids });
    }
    body
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::remote::Resources;

    /// The example that `tests/remote/sagemaker/check.py` holds to AWS's model of the service.
    const EXAMPLE: &str = include_str!("../../../../tests/remote/sagemaker/create_training_job.json");

    #[test]
    fn a_submission_is_the_request_that_was_held_to_the_services_model() {
        let digest = "0123456789abcdef".repeat(4);
        let bundle = crate::remote::tests::bundle(&digest);
        let key = &bundle.key;
        let resources = Resources { gpu: Some("A10G".into()), gpu_count: 4, nodes: 2, cpu: 4, memory_mib: 16384 };
        let attempt = crate::remote::tests::attempt(&bundle, &resources);
        let fixed = Fixed {
            role_arn: "arn:aws:iam::123456789012:role/training".to_owned(),
            image: "123456789012.dkr.ecr.eu-central-1.amazonaws.com/tunesmith:1".to_owned(),
            options: SagemakerOptions {
                spot: true,
                volume_gb: Some(100),
                subnets: vec!["subnet-0a1b2c3d".to_owned()],
                security_group_ids: vec!["sg-0a1b2c3d".to_owned()],
                tags: BTreeMap::from([("cost-center".to_owned(), "42".to_owned())]),
                ..SagemakerOptions::default()
            },
        };
        let expected: Value = serde_json::from_str(EXAMPLE).unwrap();
        let folder = format!("s3://lora/jobs/{key}");
        assert_eq!(body(&fixed, "ml.g5.12xlarge", &attempt, &folder), expected);
    }
}
