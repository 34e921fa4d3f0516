//! The body of `PUT jobs/{id}`: a submission in Azure ML's words.

use serde_json::{Map, Value, json};

use crate::remote::{GRACE, Submission};

/// What the configuration says of every job.
#[derive(Debug, Clone)]
pub(super) struct Fixed {
    /// Whole ids.
    pub environment: String,
    pub compute: String,
    pub instance_type: Option<String>,
    pub spot: bool,
    /// The datastore's name.
    pub datastore: String,
}

/// Where all that is ours lies in a datastore.
pub(super) const FOLDER: &str = "tunesmith";

/// `lora-cuda:3` of the workspace, or an id that is whole already.
pub(super) fn environment_id(workspace: &str, name: &str) -> Result<String, String> {
    if name.starts_with('/') || name.starts_with("azureml://") {
        return Ok(name.to_owned());
    }
    let Some((name, version)) = name.split_once(':') else {
        return Err(format!("is `{name}`, and has no version: give `{name}:1`, or the environment's whole id"));
    };
    Ok(format!("{workspace}/environments/{name}/versions/{version}"))
}

/// `gpu-cluster` of the workspace, or an id that is whole already.
pub(super) fn compute_id(workspace: &str, name: &str) -> String {
    if name.starts_with('/') { name.to_owned() } else { format!("{workspace}/computes/{name}") }
}

/// The body.
///
/// The output is mounted and not uploaded at the end: what is written is in the datastore as soon as its file is closed. So a
/// checkpoint outlives its machine, the next attempt finds it, and the host reads heartbeats.
pub(super) fn body(fixed: &Fixed, attempt: &Submission<'_>) -> Value {
    let resources = attempt.resources;
    let uri =
        |folder: &str| format!("azureml://datastores/{}/paths/{FOLDER}/{}/{folder}/", fixed.datastore, attempt.id.key);
    let mut machines = Map::from_iter([("instanceCount".to_owned(), json!(resources.nodes))]);
    if let Some(instance_type) = &fixed.instance_type {
        machines.insert("instanceType".to_owned(), json!(instance_type));
    }
    if resources.ranks_per_node() > 1 {
        // What processes of one machine share with each other; a container's own 64 MB are too few for NCCL.
        machines.insert("shmSize".to_owned(), json!("8g"));
    }
    let mut properties = json!({
        "jobType": "Command",
        "command": command(attempt.id.attempt),
        "environmentId": fixed.environment,
        "computeId": fixed.compute,
        "displayName": attempt.id.to_string(),
        "experimentName": "tunesmith",
        "limits": { "jobLimitsType": "Command", "timeout": duration((attempt.timeout + GRACE).as_secs()) },
        "resources": machines,
        "inputs": { "bundle": { "jobInputType": "uri_folder", "uri": uri("bundle"), "mode": "Download" } },
        "outputs": { "out": { "jobOutputType": "uri_folder", "uri": uri("out"), "mode": "ReadWriteMount" } },
        "tags": attempt.labels,
    });
    if resources.world_size() > 1 {
        properties["distribution"] =
            json!({ "distributionType": "PyTorch", "processCountPerInstance": resources.ranks_per_node() });
    }
    if fixed.spot {
        properties["queueSettings"] = json!({ "jobTier": "Spot" });
    }
    json!({ "properties": properties })
}

/// Blobs have no modes, so the program is copied to where it may be run; each process of a machine has its own copy, because they
/// start at once. `exec`: the signal that ends a job is the trainer's.
fn command(attempt: u32) -> String {
    format!(
        "program=./tunesmith-${{LOCAL_RANK:-0}}; cp ${{{{inputs.bundle}}}}/tunesmith $program && chmod 755 $program && \
         exec $program train --job ${{{{inputs.bundle}}}}/job.json --out ${{{{outputs.out}}}} --attempt {attempt}"
    )
}

/// As Microsoft's client writes it: `PT01H02M00S`.
fn duration(seconds: u64) -> String {
    format!("PT{:02}H{:02}M{:02}S", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::remote::Resources;

    /// What Microsoft's own client sends for the same job: `tests/remote/azure_ml/record.py` makes it.
    const RECORDED: &str = include_str!("../../../../tests/remote/azure_ml/put_job.json");
    const WORKSPACE: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws";

    #[test]
    fn a_submission_is_the_request_that_microsofts_client_makes() {
        let digest = "0123456789abcdef".repeat(4);
        let bundle = crate::remote::tests::bundle(&digest);
        let resources = Resources { gpu: Some("A100".into()), gpu_count: 2, nodes: 2, cpu: 4, memory_mib: 16384 };
        let attempt = crate::remote::tests::attempt(&bundle, &resources);
        let fixed = Fixed {
            environment: environment_id(WORKSPACE, "lora-cuda:1").unwrap(),
            compute: compute_id(WORKSPACE, "gpu-cluster"),
            instance_type: Some("Standard_NC24ads_A100_v4".to_owned()),
            spot: true,
            datastore: "workspaceblobstore".to_owned(),
        };
        let recorded: Value = serde_json::from_str(RECORDED).unwrap();
        assert_eq!(body(&fixed, &attempt), recorded);
    }

    #[test]
    fn an_environment_without_a_version_is_refused_with_what_to_write() {
        let told = environment_id(WORKSPACE, "lora-cuda").unwrap_err();
        assert_eq!(told, "is `lora-cuda`, and has no version: give `lora-cuda:1`, or the environment's whole id");
        assert_eq!(environment_id(WORKSPACE, "/subscriptions/x").unwrap(), "/subscriptions/x");
    }
}
