//! What is sent: the job of an attempt, and the service that its machines find each other by.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvFromSource, EnvVar, LocalObjectReference, PersistentVolumeClaimVolumeSource,
    PodSpec, PodTemplateSpec, ResourceRequirements, SecretEnvSource, Service, ServicePort, ServiceSpec, Toleration,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{CONTAINER, DIGEST};
use crate::artefacts::ArtefactStore;
use crate::config::{KubernetesOptions, RemoteConfig};
use crate::job::{JOB_FILE, JobId, PROGRAM};
use crate::remote::{GRACE, JobFiles, RemoteError, Resources, Submission};

/// Of a job's pod: what it does not hand in, it does not keep.
const SCRATCH: &str = "/tunesmith";
const MASTER_PORT: i32 = 29500;
const WEEK: u32 = 7 * 24 * 3600;
/// A label's value.
const LONGEST_LABEL: usize = 63;

/// Starts a process for each rank of a machine, hands signals on, and ends as the one ended that failed first; ranks that only lost
/// another (exit code 76) count least.
pub(super) const RANKS: &str = r#"trap 'kill -TERM $pids 2>/dev/null' TERM INT
pids= rank=0
while [ "$rank" -lt "$RANKS_PER_NODE" ]; do
  RANK=$(( ${JOB_COMPLETION_INDEX:-0} * RANKS_PER_NODE + rank )) LOCAL_RANK=$rank "$@" &
  pids="$pids $!" rank=$((rank + 1))
done
code=0
for pid in $pids; do
  while :; do wait "$pid"; ended=$?; kill -0 "$pid" 2>/dev/null || break; done
  if [ "$ended" -ne 0 ] && { [ "$code" -eq 0 ] || [ "$code" -eq 76 ]; }; then code=$ended; fi
done
exit "$code""#;

/// The options that a job can't do without.
pub(super) fn check(config: &RemoteConfig) -> Result<(), RemoteError> {
    let refuse = |key, message: &str| Err(RemoteError::Config { key, message: message.to_owned() });
    let is_folder = config.artefacts.as_deref().is_some_and(|url| url.starts_with("file:"));
    if config.kubernetes.image.is_none() {
        return refuse(
            "remote.kubernetes.image",
            "is needed: the image that jobs run in, such as that of deploy/kubernetes/Dockerfile",
        );
    }
    match (is_folder, &config.kubernetes.claim) {
        (true, None) => refuse(
            "remote.kubernetes.claim",
            "is needed where `remote.artefacts` is a `file://` address: the persistent volume claim that pods have that folder from",
        ),
        (false, Some(_)) => refuse(
            "remote.kubernetes.claim",
            "is for a `remote.artefacts` that is a `file://` address; leave one of them out",
        ),
        _ => Ok(()),
    }
}

/// The job of an attempt.
pub(super) fn job(attempt: &Submission<'_>, config: &RemoteConfig, artefacts: &ArtefactStore, files: &JobFiles) -> Job {
    let options = &config.kubernetes;
    let Resources { nodes, .. } = *attempt.resources;
    let several = nodes > 1;
    let on_machine = attempt.timeout + GRACE;
    let grace = i64::from(options.termination_grace_s.unwrap_or(GRACE.as_secs() as u32));
    Job {
        metadata: metadata(attempt),
        spec: Some(JobSpec {
            // What failed is looked at by us, and tried again as another job.
            backoff_limit: Some(0),
            // A pod that is asked to go still writes: only then comes the next.
            pod_replacement_policy: Some("Failed".to_owned()),
            // From the job's start on, and so with its wait for a machine.
            active_deadline_seconds: Some(seconds(attempt.queue_timeout + on_machine)),
            ttl_seconds_after_finished: Some(i32::try_from(options.keep_s.unwrap_or(WEEK)).unwrap_or(i32::MAX)),
            completion_mode: several.then(|| "Indexed".to_owned()),
            completions: Some(nodes as i32),
            parallelism: Some(nodes as i32),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels(attempt)), ..ObjectMeta::default() }),
                spec: Some(PodSpec {
                    restart_policy: Some("Never".to_owned()),
                    // From the pod's start on.
                    active_deadline_seconds: Some(seconds(on_machine)),
                    termination_grace_period_seconds: Some(grace),
                    containers: vec![container(attempt, options, artefacts, files)],
                    volumes: Some(volumes(attempt.resources, options)),
                    node_selector: node_selector(attempt.resources, options),
                    tolerations: tolerations(options),
                    service_account_name: options.service_account.clone(),
                    // A training asks the cluster nothing.
                    automount_service_account_token: options.service_account.is_none().then_some(false),
                    image_pull_secrets: (!options.image_pull_secrets.is_empty()).then(|| {
                        options
                            .image_pull_secrets
                            .iter()
                            .map(|name| LocalObjectReference { name: name.clone() })
                            .collect()
                    }),
                    subdomain: several.then(|| attempt.id.to_string()),
                    ..PodSpec::default()
                }),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// The name that machines which train together find each other by.
pub(super) fn service(attempt: &Submission<'_>) -> Service {
    Service {
        metadata: metadata(attempt),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // The first rank is looked for before it is ready.
            publish_not_ready_addresses: Some(true),
            selector: Some(BTreeMap::from([("job-name".to_owned(), attempt.id.to_string())])),
            ports: Some(vec![ServicePort {
                name: Some("ranks".to_owned()),
                port: MASTER_PORT,
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn metadata(attempt: &Submission<'_>) -> ObjectMeta {
    // Labels are short and of few characters: what was given is among the annotations whole.
    let mut annotations: BTreeMap<_, _> =
        attempt.labels.iter().map(|(name, value)| (format!("tunesmith/{name}"), value.clone())).collect();
    annotations.insert(DIGEST.to_owned(), attempt.bundle.digest.clone());
    ObjectMeta {
        name: Some(attempt.id.to_string()),
        labels: Some(labels(attempt)),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    }
}

fn labels(attempt: &Submission<'_>) -> BTreeMap<String, String> {
    let given = attempt.labels.iter().filter(|(name, _)| *name != "digest");
    let mut labels: BTreeMap<_, _> =
        given.map(|(name, value)| (format!("tunesmith/{name}"), label_value(value))).collect();
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "tunesmith".to_owned());
    labels
}

/// Letters, digits, `-`, `_` and `.`, at both ends a letter or digit, at most 63.
fn label_value(text: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let value: String = text.chars().map(allowed).take(LONGEST_LABEL).collect();
    value.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

fn container(
    attempt: &Submission<'_>,
    options: &KubernetesOptions,
    artefacts: &ArtefactStore,
    files: &JobFiles,
) -> Container {
    let Submission { id, resources, .. } = attempt;
    let (program, job, out, store) = match artefacts.local_folder() {
        // The volume is that very folder: nothing is copied.
        Some(_) => {
            let at = |path: &str| format!("{SCRATCH}/artefacts/{}/{path}", files.key());
            let program = match attempt.bundle.files.iter().any(|file| file.path == PROGRAM) {
                true => at(&format!("bundle/{PROGRAM}")),
                false => PROGRAM.to_owned(),
            };
            (program, at(&format!("bundle/{JOB_FILE}")), at("out"), None)
        }
        None => {
            let job = format!("{}/{JOB_FILE}", files.bundle().url());
            (PROGRAM.to_owned(), job, format!("{SCRATCH}/out"), Some(files.out().url().to_owned()))
        }
    };
    let mut train = vec![program, "train".to_owned(), "--job".to_owned(), job, "--out".to_owned(), out];
    train.extend(["--attempt".to_owned(), id.attempt.to_string()]);
    train.extend(store.into_iter().flat_map(|store| ["--artefacts".to_owned(), store]));
    let command = if resources.world_size() > 1 {
        ["sh", "-c", RANKS, "ranks"].into_iter().map(str::to_owned).chain(train).collect()
    } else {
        train
    };
    let mut mounts = vec![mount("scratch", SCRATCH, None)];
    if options.claim.is_some() {
        mounts.push(mount("artefacts", &format!("{SCRATCH}/artefacts"), options.claim_sub_path.clone()));
    }
    if resources.world_size() > 1 {
        mounts.push(mount("shm", "/dev/shm", None));
    }
    Container {
        name: CONTAINER.to_owned(),
        image: options.image.clone(),
        command: Some(command),
        working_dir: Some(SCRATCH.to_owned()),
        env: Some(environment(id, resources)),
        env_from: options.env_from_secret.as_ref().map(|name| {
            vec![EnvFromSource {
                secret_ref: Some(SecretEnvSource { name: name.clone(), optional: None }),
                ..EnvFromSource::default()
            }]
        }),
        resources: Some(requirements(resources, options)),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn environment(id: &JobId, resources: &Resources) -> Vec<EnvVar> {
    let world_size = resources.world_size();
    let master = if resources.nodes > 1 { format!("{id}-0.{id}") } else { "127.0.0.1".to_owned() };
    let ranks = [
        ("WORLD_SIZE", world_size.to_string()),
        ("RANKS_PER_NODE", resources.ranks_per_node().to_string()),
        ("MASTER_ADDR", master),
        ("MASTER_PORT", MASTER_PORT.to_string()),
    ];
    let ranks = ranks.into_iter().filter(|_| world_size > 1);
    ranks.map(|(name, value)| EnvVar { name: name.to_owned(), value: Some(value), value_from: None }).collect()
}

fn requirements(resources: &Resources, options: &KubernetesOptions) -> ResourceRequirements {
    let mut limits = BTreeMap::from([
        ("cpu".to_owned(), Quantity(resources.cpu.to_string())),
        ("memory".to_owned(), Quantity(format!("{}Mi", resources.memory_mib))),
    ]);
    if resources.gpu.is_some() {
        limits.insert(gpu_resource(options).to_owned(), Quantity(resources.gpu_count.to_string()));
    }
    ResourceRequirements { limits: Some(limits.clone()), requests: Some(limits), claims: None }
}

/// What a GPU is called among resources.
pub(super) fn gpu_resource(options: &KubernetesOptions) -> &str {
    options.gpu_resource.as_deref().unwrap_or("nvidia.com/gpu")
}

/// Labels that nodes must have.
pub(super) fn node_selector(resources: &Resources, options: &KubernetesOptions) -> Option<BTreeMap<String, String>> {
    let mut selector = options.node_selector.clone();
    if let (Some(label), Some(kind)) = (&options.gpu_label, &resources.gpu) {
        let value = options.gpu_label_values.get(kind).unwrap_or(kind);
        selector.insert(label.clone(), value.clone());
    }
    (!selector.is_empty()).then_some(selector)
}

fn tolerations(options: &KubernetesOptions) -> Option<Vec<Toleration>> {
    let ours = options.tolerations.iter().map(|given| Toleration {
        key: given.key.clone(),
        operator: given.operator.clone().or_else(|| given.value.is_none().then(|| "Exists".to_owned())),
        value: given.value.clone(),
        effect: given.effect.clone(),
        toleration_seconds: None,
    });
    let tolerations: Vec<_> = ours.collect();
    (!tolerations.is_empty()).then_some(tolerations)
}

fn volumes(resources: &Resources, options: &KubernetesOptions) -> Vec<Volume> {
    let empty = |name: &str, medium: Option<&str>| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { medium: medium.map(str::to_owned), size_limit: None }),
        ..Volume::default()
    };
    let mut volumes = vec![empty("scratch", None)];
    volumes.extend(options.claim.as_ref().map(|claim| Volume {
        name: "artefacts".to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name: claim.clone(), read_only: None }),
        ..Volume::default()
    }));
    // NCCL's own is larger than the 64 MiB that containers have.
    volumes.extend((resources.world_size() > 1).then(|| empty("shm", Some("Memory"))));
    volumes
}

fn mount(name: &str, path: &str, sub_path: Option<String>) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), sub_path, ..VolumeMount::default() }
}

fn seconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
