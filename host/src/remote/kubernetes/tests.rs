use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::manifest::{self, RANKS};
use crate::artefacts::ArtefactStore;
use crate::config::{Options, RemoteConfig};
use crate::job::{Bundle, BundleFile};
use crate::remote::{JobFiles, Submission};

fn config(toml: &str) -> RemoteConfig {
    let options: Options = toml::from_str(&format!("backend_provider = \"kubernetes\"\n{toml}")).unwrap();
    RemoteConfig::new(&options).unwrap()
}

fn bundle() -> Bundle {
    Bundle {
        folder: "/nowhere".into(),
        files: vec![BundleFile { path: "tunesmith".to_owned(), size: 1, executable: true }],
        ..crate::remote::tests::bundle(&"0123456789abcdef".repeat(4))
    }
}

/// What the API server would get.
fn sent(config: &RemoteConfig) -> Value {
    let bundle = bundle();
    let root = ArtefactStore::open(config.artefacts.as_deref().unwrap(), false).unwrap();
    let files = JobFiles::new(&root, &bundle.key);
    let labels = [("tenant", "Acme, Inc."), ("job", bundle.key.as_str()), ("digest", bundle.digest.as_str())];
    let attempt = Submission {
        id: bundle.key.attempt(2),
        bundle: &bundle,
        resources: &config.resources,
        timeout: config.timeout,
        queue_timeout: config.queue_timeout,
        labels: labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    };
    json!({
        "job": manifest::job(&attempt, config, &root, &files),
        "service": manifest::service(&attempt),
    })
}

const OBJECT_STORE: &str = r#"
gpu = "A10G"
timeout = 600
[remote]
artefacts = "s3://adapters/tunesmith"
queue_timeout = 300
[remote.kubernetes]
image = "registry/tunesmith:1"
env_from_secret = "artefact-store"
gpu_label = "nvidia.com/gpu.product"
gpu_label_values = { A10G = "NVIDIA-A10G" }
node_selector = { pool = "gpus" }
tolerations = [{ key = "nvidia.com/gpu", effect = "NoSchedule" }]
"#;

#[test]
fn a_job_is_one_pod_that_is_never_started_twice_and_ends_by_itself() {
    let job = sent(&config(OBJECT_STORE))["job"].clone();
    let digest = "0123456789abcdef".repeat(4);
    assert_eq!(job["metadata"]["name"], "acme-0123456789abcdef0123-2");
    assert_eq!(
        job["metadata"]["labels"],
        json!({
            "app.kubernetes.io/managed-by": "tunesmith",
            "tunesmith/tenant": "Acme--Inc", "tunesmith/job": "acme-0123456789abcdef0123",
        })
    );
    assert_eq!(job["metadata"]["annotations"]["tunesmith/tenant"], "Acme, Inc.");
    assert_eq!(job["metadata"]["annotations"]["tunesmith/digest"], json!(digest));
    let spec = &job["spec"];
    assert_eq!((&spec["backoffLimit"], &spec["completions"], &spec["parallelism"]), (&json!(0), &json!(1), &json!(1)));
    // 300 s in the queue, 600 s of training, 120 s to save and to hand in
    assert_eq!(spec["activeDeadlineSeconds"], 1020);
    assert_eq!(spec["ttlSecondsAfterFinished"], 604_800);
    assert_eq!(spec["podReplacementPolicy"], "Failed");
    assert_eq!(spec["completionMode"], Value::Null);
    let pod = &spec["template"]["spec"];
    assert_eq!((&pod["restartPolicy"], &pod["activeDeadlineSeconds"]), (&json!("Never"), &json!(720)));
    assert_eq!(pod["terminationGracePeriodSeconds"], 120);
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["nodeSelector"], json!({"pool": "gpus", "nvidia.com/gpu.product": "NVIDIA-A10G"}));
    assert_eq!(pod["tolerations"], json!([{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]));
    let container = &pod["containers"][0];
    let limits = json!({"cpu": "4", "memory": "16384Mi", "nvidia.com/gpu": "1"});
    assert_eq!(container["resources"], json!({"limits": limits, "requests": limits}));
    assert_eq!(container["envFrom"], json!([{"secretRef": {"name": "artefact-store"}}]));
    let folder = "s3://adapters/tunesmith/acme-0123456789abcdef0123";
    let command = format!(
        "tunesmith train --job {folder}/bundle/job.json --out /tunesmith/out --attempt 2 --artefacts {folder}/out"
    );
    assert_eq!(words(&container["command"]), command);
}

#[test]
fn on_a_claim_the_job_works_in_the_artefact_store_itself() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let given = format!(
        "gpu = \"none\"\n[remote]\nartefacts = {url:?}\n[remote.kubernetes]\nimage = \"debian:12\"\nclaim = \"artefacts\"\n\
         claim_sub_path = \"tunesmith\""
    );
    let pod = sent(&config(&given))["job"]["spec"]["template"]["spec"].clone();
    let container = &pod["containers"][0];
    let folder = "/tunesmith/artefacts/acme-0123456789abcdef0123";
    let command =
        format!("{folder}/bundle/tunesmith train --job {folder}/bundle/job.json --out {folder}/out --attempt 2");
    assert_eq!(words(&container["command"]), command);
    assert_eq!(
        container["volumeMounts"],
        json!([
            {"name": "scratch", "mountPath": "/tunesmith"},
            {"name": "artefacts", "mountPath": "/tunesmith/artefacts", "subPath": "tunesmith"},
        ])
    );
    assert_eq!(pod["volumes"][1]["persistentVolumeClaim"], json!({"claimName": "artefacts"}));
    assert_eq!(container["resources"]["limits"], json!({"cpu": "4", "memory": "16384Mi"}));
}

#[test]
fn machines_that_train_together_are_an_indexed_job_with_a_service() {
    let given = OBJECT_STORE
        .replace("gpu = \"A10G\"", "gpu = \"A10G\"\ngpu_count = 4")
        .replace("[remote]", "[remote]\nnodes = 2");
    let sent = sent(&config(&given));
    let (spec, service) = (&sent["job"]["spec"], &sent["service"]);
    assert_eq!(
        (&spec["completionMode"], &spec["completions"], &spec["parallelism"]),
        (&json!("Indexed"), &json!(2), &json!(2))
    );
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["subdomain"], service["metadata"]["name"]);
    assert_eq!(service["spec"]["selector"], json!({"job-name": "acme-0123456789abcdef0123-2"}));
    assert_eq!(
        (&service["spec"]["clusterIP"], &service["spec"]["publishNotReadyAddresses"]),
        (&json!("None"), &json!(true))
    );
    let container = &pod["containers"][0];
    assert_eq!(
        container["env"],
        json!([
            {"name": "WORLD_SIZE", "value": "8"},
            {"name": "RANKS_PER_NODE", "value": "4"},
            {"name": "MASTER_ADDR", "value": "acme-0123456789abcdef0123-2-0.acme-0123456789abcdef0123-2"},
            {"name": "MASTER_PORT", "value": "29500"},
        ])
    );
    assert!(words(&container["command"]).starts_with("sh -c trap "));
    assert!(words(&container["command"]).contains(" ranks tunesmith train --job s3://"));
    assert_eq!(pod["volumes"][1], json!({"name": "shm", "emptyDir": {"medium": "Memory"}}));
}

#[test]
fn what_a_job_cannot_do_without_is_asked_for_by_its_key() {
    let told = |given: &str| manifest::check(&config(given)).unwrap_err().to_string();
    assert!(told("[remote]\nartefacts = \"s3://a/b\"").starts_with("`remote.kubernetes.image`: is needed"));
    let image = "[remote.kubernetes]\nimage = \"i\"\n";
    let folder = told(&format!("[remote]\nartefacts = \"file:///mnt\"\n{image}"));
    assert!(folder.starts_with("`remote.kubernetes.claim`: is needed where"), "{folder}");
    let both = told(&format!("[remote]\nartefacts = \"s3://a/b\"\n{image}claim = \"c\""));
    assert!(both.starts_with("`remote.kubernetes.claim`: is for a"), "{both}");
}

fn ranks(per_node: u32, index: &str, program: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", RANKS, "ranks", "sh", "-c", program]);
    shell.env("RANKS_PER_NODE", per_node.to_string()).env("JOB_COMPLETION_INDEX", index);
    shell
}

#[test]
fn each_rank_of_a_machine_is_a_process_that_knows_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let done = ranks(3, "2", "echo $RANK > $LOCAL_RANK").current_dir(folder.path()).status().unwrap();
    assert!(done.success());
    let rank = |local: &str| std::fs::read_to_string(folder.path().join(local)).unwrap();
    assert_eq!(["0", "1", "2"].map(rank), ["6\n", "7\n", "8\n"]);
}

#[test]
fn a_machine_ends_as_its_rank_that_failed_not_as_those_that_lost_it() {
    let code = |program| ranks(3, "0", program).status().unwrap().code();
    assert_eq!(code("[ $RANK = 1 ] && exit 66; exit 76"), Some(66));
    assert_eq!(code("[ $RANK = 2 ] && exit 76; exit 0"), Some(76));
}

#[test]
fn ranks_that_are_asked_to_stop_are_waited_for() {
    let program = "trap 'sleep 0.3; exit 75' TERM; while :; do sleep 0.05; done";
    let mut machine = ranks(2, "0", program).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let pid = machine.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(machine.wait().unwrap().code(), Some(75));
}

fn words(command: &Value) -> String {
    command.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>().join(" ")
}
