//! The whole run, from telemetry to adapter. Read [`finetune`] first: everything else is a part of it.
//!
//! ```text
//!  telemetry store --> redact --> extractor plugin --> dedupe, split --> formatter plugin --> encode, train
//!                                                          |                                      |
//!                                        approved examples |                                      |
//!                                                     policy plugin                     adapter vs base, run folder
//!                                                          | too little
//!                                          generator --> approval store: people decide, and the run begins anew
//! ```

mod admission;
mod admitted;
mod analysis;
mod card;
mod collect;
mod decide;
mod failures;
mod fit;
mod format;
mod job;
mod mark;
mod metrics;
mod outputs;
mod plugins;
mod recipe;
mod records;
mod remote;
mod shortage;
mod source;
mod train;
mod work;
mod workplace;

use std::sync::Arc;
use std::time::{Duration, Instant};

use trainer_cuda::TrainerError;
use trainer_cuda::config::TrainConfig;
use trainer_cuda::formats::BaseModel;

use crate::config::{ModelType, RunConfig};
use crate::dataset;
use crate::error::HostError;
use crate::plugins::bindings::selection_policy::{DatasetStatistics, Decision, Insufficiency, TrainingChoice};
use crate::plugins::bindings::types::TrainingMethod;
use crate::progress::Progress;
use crate::report::{self, HeldOutComparison, RunReport, Timings};
use crate::run_dir::RunDir;
use crate::tenants;

use format::TokenSet;
use recipe::{DpoRecipe, Recipe, SftRecipe, TripletRecipe};
use remote::Elsewhere;
use work::{Machine, Work};
use workplace::Workplace;

pub use admitted::Admitted;
pub use analysis::{Analysis, analyze};
pub use collect::{Collected, collect, statistics};
pub use decide::{Sides, choose_method, split, split_kind};
pub use format::{Formatting, format};
pub use job::Execution;
pub use mark::mark_used;
pub use plugins::RunPlugins;
pub use recipe::role;
pub use records::{RecordText, digest, fields};
pub use shortage::{Shortage, Submitted};
pub use source::{Source, import_file, open_or_create, open_source, sync_phoenix};

/// How a run ended.
pub enum Outcome {
    /// With an adapter.
    Trained(Box<RunReport>),
    /// With less than it takes, which may be generated.
    Short(Box<Shortage>),
}

/// What becomes of a training that was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// It stays as it is.
    Ignore,
    /// The newest of this method and agent goes on; there has to be one.
    Take,
    /// It goes on where there is one.
    TakeIfThere,
}

/// Trains an adapter on what people said of one agent's traces, compares it with its base on traces that were held out,
/// and leaves a run folder in `config.output_dir`. Nothing is left there where this fails, but the checkpoint of a
/// training that was stopped.
///
/// # Errors
/// [`HostError`], before training wherever that can be known.
pub fn finetune(config: &RunConfig, checkpoint: Checkpoint, progress: &Progress) -> Result<Outcome, HostError> {
    let (started_at, start) = (jiff::Timestamp::now(), Instant::now());
    tenants::check_output(&config.output_dir, config.granted.output_quota)?;
    let place = Place::open(config)?;
    let mut config = config.clone();
    if let Place::Here { training, .. } = &place {
        config.training = TrainConfig::clone(training);
    }
    let config = &config;
    let base = Arc::new(BaseModel::open(&config.base_model)?);
    // Its digest is wanted when training starts: it is known by then, beside the reading of spans.
    let hashed = Arc::clone(&base);
    std::thread::spawn(move || hashed.sha256());
    match config.model_type {
        ModelType::Llm => drop(base.decoder()?),
        ModelType::Embedding => drop(base.encoder()?),
    }
    let plugins = RunPlugins::load(config)?;

    let source = open_source(config, progress)?;
    let mut collected = collect(config, &source, &plugins.extractor, progress)?;
    collected.admit_approved(config)?;
    let statistics = statistics(config, &collected);
    let choice = match choose_method(config, &plugins.policy, &statistics, &collected)? {
        Decision::Train(choice) => choice,
        Decision::Insufficient(Insufficiency { shortfalls, reason }) if config.generate_synthetic => {
            return Ok(Outcome::Short(Box::new(Shortage { collected, shortfalls, reason })));
        }
        Decision::Insufficient(short) => return Err(decide::insufficient(config, short.reason)),
    };

    let run = Run { config, checkpoint, progress, started_at, start, base, plugins, collected, statistics, choice };
    let report = match run.choice.method {
        TrainingMethod::Sft => run.train::<SftRecipe>(place),
        TrainingMethod::Dpo => run.train::<DpoRecipe>(place),
        TrainingMethod::Triplet => run.train::<TripletRecipe>(place),
    };
    Ok(Outcome::Trained(Box::new(report?)))
}

/// Where a run trains.
enum Place {
    /// On this machine, which is open.
    Here { machine: Box<Machine>, training: Box<TrainConfig> },
    /// As a job of an engine, which has been asked whether it would.
    There(Box<Elsewhere>),
}

impl Place {
    fn open(config: &RunConfig) -> Result<Self, HostError> {
        if let Some(remote) = &config.remote {
            return Ok(Self::There(Box::new(Elsewhere::open(config, remote)?)));
        }
        let (machine, precision) = Machine::open(&config.compute, config.execution.memory_limit)?;
        let training = TrainConfig { precision, ..config.training.clone() };
        Ok(Self::Here { machine: Box::new(machine), training: Box::new(training) })
    }
}

/// A run whose method is known.
struct Run<'a> {
    config: &'a RunConfig,
    checkpoint: Checkpoint,
    progress: &'a Progress,
    started_at: jiff::Timestamp,
    start: Instant,
    base: Arc<BaseModel>,
    plugins: RunPlugins,
    collected: Collected,
    statistics: DatasetStatistics,
    choice: TrainingChoice,
}

impl Run<'_> {
    /// From the split on.
    fn train<R: Recipe>(mut self, place: Place) -> Result<RunReport, HostError> {
        let split = split(self.config, &self.collected, R::METHOD)?;
        let train = self.encode::<R>(split.train)?;
        if train.tokens.is_empty() {
            return Err(decide::nothing_to_train(&self.collected.skipped));
        }
        let held_out = self.encode::<R>(split.held_out)?;
        dataset::check_leaks(&train.sources, &held_out.sources, &self.collected.origins, self.config.dataset.ties())?;
        dataset::check_prompts(train.prompts(), held_out.prompts())?;

        let name = run_name(self.config, R::METHOD);
        let output_dir = &self.config.output_dir;
        let create = || RunDir::create(output_dir, &name, self.started_at);
        let run_dir = match self.checkpoint {
            Checkpoint::Ignore => create()?,
            Checkpoint::Take => RunDir::resume(output_dir, &name)?,
            Checkpoint::TakeIfThere => RunDir::resume(output_dir, &name).or_else(|_| create())?,
        };
        match self.fill::<R>(place, &run_dir, &train, &held_out) {
            Ok(report) => Ok(RunReport { adapter_path: run_dir.commit()?, ..report }),
            Err(error) => Err(give_up(run_dir, error)),
        }
    }

    fn encode<R: Recipe>(&mut self, examples: Vec<Admitted>) -> Result<TokenSet<R::Example>, HostError> {
        let skipped = &mut self.collected.skipped;
        format::encode::<R>(self.config, &self.plugins.formatter, &self.base, examples, skipped, self.progress)
    }

    /// Trains, judges and writes everything that the run folder will hold.
    fn fill<R: Recipe>(
        &self,
        place: Place,
        run_dir: &RunDir,
        train: &TokenSet<R::Example>,
        held_out: &TokenSet<R::Example>,
    ) -> Result<RunReport, HostError> {
        let (config, progress) = (self.config, self.progress);
        let (plugin_time, so_far) = (self.plugins.time_in_calls(), self.start.elapsed());
        let (produced, job) = match place {
            Place::Here { machine, training } => {
                let work = self.work(&training, train, held_out);
                (work.on::<R>(*machine, &Workplace::of_run(run_dir), progress)?, None)
            }
            Place::There(elsewhere) => {
                let work = self.work(&config.training, train, held_out);
                let records = (train.records.as_slice(), held_out.records.as_slice());
                let name = run_name(config, R::METHOD);
                let (produced, job) = elsewhere.train::<R>(config, &work, records, &name, run_dir.path(), progress)?;
                (produced, Some(job))
            }
        };
        let before_training = so_far + Duration::from_secs_f64(produced.before_training_s);

        let threshold = config.dataset.near_duplicate_threshold;
        let near_training = dataset::near_training(&train.sources, &held_out.sources, threshold);
        let sides = [train, held_out].map(|set| card::Side {
            examples: &set.sources,
            records: &set.records,
            tokens: set.tokens.iter().map(R::n_tokens).collect(),
        });
        let card = card::DatasetCard::new(config, &self.plugins, &self.collected, near_training, sides.each_ref());
        let mut report = RunReport {
            tenant_id: config.tenant_id.clone(),
            project: self.collected.project.clone(),
            agent_type: config.agent_type.clone(),
            modality: config.modality,
            decision: self.choice.clone().into(),
            base_model: config.base_model.clone(),
            lora: produced.lora,
            device: produced.device.clone(),
            device_choice: produced.device_choice.clone(),
            job,
            spans: self.collected.spans,
            examples: (&self.statistics).into(),
            skipped: self.collected.skipped.clone(),
            redacted: self.collected.redacted.clone(),
            n_train: train.tokens.len(),
            n_synthetic: train.approvals().count(),
            approved_by: train.approvals().map(|approval| approval.approved_by.clone()).collect(),
            n_held_out: held_out.tokens.len(),
            n_held_out_near_training: near_training,
            dataset_sha256: card.sha256.clone(),
            held_out: produced.held_out.map(|(base, adapter)| HeldOutComparison::new(base, adapter)),
            final_train_loss: produced.final_train_loss,
            steps: produced.steps,
            stopped: produced.stopped,
            best_step: produced.best_step,
            resumed_at: produced.resumed_at,
            adapter_path: ".".into(), // as `run.json` sees it; the name is given by the commit
            timings: Timings::new(before_training, plugin_time, Duration::from_secs_f64(produced.training_s)),
            tokens_per_second: produced.tokens_per_second,
            peak_rss_bytes: produced.peak_rss_bytes,
        };
        report.timings.total_s = self.start.elapsed().as_secs_f64();
        let inputs = outputs::Inputs {
            base: &self.base,
            plugins: &self.plugins,
            train: &train.sources,
            held_out: &held_out.sources,
            card: &card,
        };
        outputs::write(run_dir, config, &report, &inputs)?;
        Ok(report)
    }

    fn work<'a, E>(
        &'a self,
        training: &'a TrainConfig,
        train: &'a TokenSet<E>,
        held_out: &'a TokenSet<E>,
    ) -> Work<'a, E> {
        Work {
            base: &self.base,
            training,
            lora_fallback: self.config.execution.lora_fallback,
            checkpoint_steps: self.config.execution.checkpoint_steps,
            train: &train.tokens,
            held_out: &held_out.tokens,
        }
    }
}

/// `{sft|dpo}_{agent}`, `embedding_{modality}`: a run folder's name before its time.
fn run_name(config: &RunConfig, method: TrainingMethod) -> String {
    match (method, config.modality) {
        (TrainingMethod::Triplet, Some(modality)) => format!("embedding_{}", modality.name()),
        (TrainingMethod::Triplet, None) => format!("embedding_{}", config.agent_type),
        (method, _) => format!("{}_{}", report::method_name(method), config.agent_type),
    }
}

/// Leaves what another run can go on from.
fn give_up(run_dir: RunDir, error: HostError) -> HostError {
    match error {
        HostError::Interrupted if run_dir.state_file().is_file() => {
            HostError::InterruptedTraining { folder: run_dir.path().to_owned() }
        }
        HostError::Trainer(error @ TrainerError::Cuda { .. }) if run_dir.state_file().is_file() => {
            HostError::LostTraining { error, folder: run_dir.path().to_owned() }
        }
        // It would come to the same number again.
        HostError::Trainer(TrainerError::NotFinite { .. }) => {
            run_dir.discard();
            error
        }
        error => error,
    }
}

/// The most memory that this process held at once.
pub fn peak_rss_bytes() -> u64 {
    // SAFETY: an all-zero `rusage` is a valid value of that plain struct, and `getrusage` only writes to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    usage.ru_maxrss as u64 * 1024 // Linux counts in KiB
}
