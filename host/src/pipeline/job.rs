//! A training as a job: what a bundle holds of a run, and what a machine makes of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use trainer_cuda::config::TrainConfig;
use trainer_cuda::cuda;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::ranks::{Ranks, Timeouts};

use super::recipe::{DpoRecipe, Recipe, SftRecipe, TripletRecipe};
use super::records::{self, RecordText};
use super::work::{Machine, Work};
use super::workplace::Workplace;
use crate::compute::{ComputeConfig, DeviceName};
use crate::config::{RemoteConfig, RunConfig};
use crate::dataset;
use crate::error::HostError;
use crate::job::{
    BaseSource, Bundle, BundleDraft, DATASET_FILE, DatasetSource, FORMAT, Job, JobError, JobMethod, Produced,
};
use crate::plugins::bindings::formatting::TrainingRecord;
use crate::plugins::bindings::types::TrainingMethod;
use crate::progress::Progress;

/// A line of `dataset.jsonl`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    set: Set,
    record: Value,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Set {
    Train,
    HeldOut,
}

/// Makes the bundle of a training in `jobs`, or finds it there.
///
/// # Errors
/// [`HostError::Job`] where a file can't be read or written, and those of the base model.
pub(super) fn bundle<R: Recipe>(
    config: &RunConfig,
    remote: &RemoteConfig,
    work: &Work<'_, R::Example>,
    (train, held_out): (&[RecordText], &[RecordText]),
    name: &str,
    jobs: &Path,
) -> Result<Bundle, HostError> {
    let mut draft = BundleDraft::new(jobs)?;
    let mut rows = Vec::new();
    for (set, records) in [(Set::Train, train), (Set::HeldOut, held_out)] {
        for record in records {
            let record = serde_json::from_str(&record.line).unwrap_or_default(); // a line of our own
            rows.extend(serde_json::to_vec(&Row { set, record }).unwrap_or_default());
            rows.push(b'\n');
        }
    }
    draft.write(DATASET_FILE, &rows)?;
    let from = match &remote.base_model {
        Some(elsewhere) => elsewhere.clone(),
        None => {
            let copy = work.base.files()?;
            for (path, file) in &copy.files {
                draft.link(&format!("base/{path}"), file)?;
            }
            if copy.opened.is_empty() { "base".to_owned() } else { format!("base/{}", copy.opened) }
        }
    };
    let job = Job {
        format: FORMAT,
        tenant_id: config.tenant_id.clone(),
        name: name.to_owned(),
        method: method(R::METHOD),
        training: work.training.clone(),
        encoding: config.encoding,
        lora_fallback: work.lora_fallback,
        compute: compute(config, remote),
        memory_limit: config.execution.memory_limit,
        checkpoint_steps: work.checkpoint_steps,
        timeout_s: remote.timeout.as_secs(),
        base_model: BaseSource { from, sha256: work.base.sha256()?, name: work.base.path().display().to_string() },
        dataset: DatasetSource {
            tokens_sha256: work.tokens_sha256::<R>(),
            n_train: train.len(),
            n_held_out: held_out.len(),
        },
        files: BTreeMap::new(),
        program_sha256: String::new(),
        world_size: remote.resources.world_size(),
    };
    let program = match &remote.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(HostError::io("find", Path::new("tunesmith")))?,
    };
    Ok(draft.finish(job, &program)?)
}

/// Whoever asks for a GPU does not want a processor's training for its price.
fn compute(config: &RunConfig, remote: &RemoteConfig) -> ComputeConfig {
    let device = match (config.compute.device, &remote.resources.gpu) {
        (DeviceName::Auto, Some(_)) => DeviceName::Cuda(0),
        (DeviceName::Auto, None) => DeviceName::Cpu,
        (named, _) => named,
    };
    ComputeConfig { device, ..config.compute.clone() }
}

fn method(method: TrainingMethod) -> JobMethod {
    match method {
        TrainingMethod::Sft => JobMethod::Sft,
        TrainingMethod::Dpo => JobMethod::Dpo,
        TrainingMethod::Triplet => JobMethod::Triplet,
    }
}

/// A job on a machine that has all that it needs.
#[derive(Debug, Clone, Copy)]
pub struct Execution<'a> {
    /// What to do.
    pub job: &'a Job,
    /// Folder of its records.
    pub bundle: &'a Path,
    /// Folder of the base model.
    pub base: &'a Path,
    /// Folder that the adapter, the metrics and checkpoints are written into. Of several ranks, the first has the adapter.
    pub out: &'a Path,
    /// Which of several processes this is.
    pub ranks: Option<&'a Ranks>,
}

impl Execution<'_> {
    /// Trains.
    ///
    /// # Errors
    /// [`HostError::Job`] where the bundle is not what it says, [`HostError`] otherwise.
    pub fn run(self, progress: &Progress) -> Result<Produced, HostError> {
        match self.job.method {
            JobMethod::Sft => self.run_as::<SftRecipe>(progress),
            JobMethod::Dpo => self.run_as::<DpoRecipe>(progress),
            JobMethod::Triplet => self.run_as::<TripletRecipe>(progress),
        }
    }

    fn run_as<R: Recipe>(self, progress: &Progress) -> Result<Produced, HostError> {
        let Self { job, bundle, base, out, ranks } = self;
        let opened = BaseModel::open(base)?.named(Path::new(&job.base_model.name));
        let sha256 = opened.sha256()?;
        if sha256 != job.base_model.sha256 {
            let want = job.base_model.sha256.clone();
            return Err(JobError::OtherBase { path: base.to_owned(), is: sha256, want }.into());
        }
        let (train, held_out) = read_records(bundle)?;
        let train = encode::<R>(&opened, train, job)?;
        let held_out = encode::<R>(&opened, held_out, job)?;

        let compute = match ranks {
            Some(ranks) => of_rank(&job.compute, ranks),
            None => job.compute.clone(),
        };
        let (mut machine, precision) = Machine::open(&compute, job.memory_limit)?;
        machine.group = ranks.map(|ranks| ranks.meet(Timeouts::default())).transpose()?;
        let world_size = ranks.map_or(1, Ranks::world_size);
        let training = TrainConfig { precision, world_size, ..job.training.clone() };
        let work = Work {
            base: &opened,
            training: &training,
            lora_fallback: job.lora_fallback,
            checkpoint_steps: job.checkpoint_steps,
            train: &train,
            held_out: &held_out,
        };
        if work.tokens_sha256::<R>() != job.dataset.tokens_sha256 {
            return Err(JobError::OtherTokens { path: base.to_owned() }.into());
        }
        let place = Workplace::of_job(out);
        for folder in [Some(place.adapter.as_path()), place.state.parent()].into_iter().flatten() {
            fs::create_dir_all(folder).map_err(HostError::io("create", folder))?;
        }
        work.on::<R>(machine, &place, progress)
    }
}

/// Each process of a machine has a GPU of its own.
fn of_rank(compute: &ComputeConfig, ranks: &Ranks) -> ComputeConfig {
    let device = match compute.device {
        DeviceName::Cuda(_) => DeviceName::Cuda(ranks.gpu(cuda::report(&compute.cuda_options()).gpus.len())),
        other => other,
    };
    ComputeConfig { device, ..compute.clone() }
}

fn read_records(bundle: &Path) -> Result<(Vec<TrainingRecord>, Vec<TrainingRecord>), HostError> {
    let path = bundle.join(DATASET_FILE);
    let text = fs::read_to_string(&path).map_err(HostError::io("read", &path))?;
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let row: Option<Row> = serde_json::from_str(line).ok();
        match row.and_then(|row| Some((row.set, records::parse(&row.record)?))) {
            Some((Set::Train, record)) => train.push(record),
            Some((Set::HeldOut, record)) => held_out.push(record),
            None => return Err(JobError::Record { path, line: index + 1 }.into()),
        }
    }
    Ok((train, held_out))
}

/// Every record trained or judged where it was formatted: none may fall out here.
fn encode<R: Recipe>(base: &BaseModel, records: Vec<TrainingRecord>, job: &Job) -> Result<Vec<R::Example>, HostError> {
    let n = records.len();
    if n == 0 {
        return Ok(Vec::new());
    }
    dataset::validate(&records, R::METHOD)?;
    let encoded = R::encode(base, records, &job.encoding)?;
    match encoded.examples.len() == n {
        true => Ok(encoded.examples),
        false => Err(JobError::OtherTokens { path: base.path().to_owned() }.into()),
    }
}
