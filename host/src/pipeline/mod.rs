//! The whole run, from telemetry to adapter. Read [`finetune`] first: everything else is a part of it.
//!
//! ```text
//!  telemetry store --> extractor plugin --> dedupe, split --> formatter plugin --> encode, train
//!                                               |                                      |
//!                                          policy plugin                     adapter vs base, run folder
//! ```

mod collect;
mod decide;
mod format;
mod outputs;
mod plugins;
mod source;
mod train;

use std::time::Instant;

use trainer_cuda::formats::BaseModel;

use crate::config::RunConfig;
use crate::dataset;
use crate::error::HostError;
use crate::progress::Progress;
use crate::report::{HeldOutComparison, RunReport, Timings};
use crate::run_dir::RunDir;

pub use collect::{Collected, collect, statistics};
pub use decide::{approved_split, choose_method};
pub use format::{Formatting, format, role};
pub use plugins::RunPlugins;
pub use source::{Source, import_file, open_or_create, open_source};

/// Trains an adapter on the approved traces of one agent, compares it with its base on traces that were held out,
/// and leaves a run folder in `config.output_dir`; nothing is left there where this fails.
///
/// # Errors
/// [`HostError`], before training wherever that can be known.
pub fn finetune(config: &RunConfig, progress: &Progress) -> Result<RunReport, HostError> {
    let (started_at, start) = (jiff::Timestamp::now(), Instant::now());
    let base = BaseModel::open(&config.base_model)?;
    let plugins = RunPlugins::load(config)?;

    let source = open_source(config, progress)?;
    let mut collected = collect(config, &source, &plugins.extractor, progress)?;
    let statistics = statistics(config, &collected);
    let choice = choose_method(config, &plugins.policy, &statistics, &collected)?;

    let split = approved_split(config, &collected)?;
    let train = format::sft_examples(config, &plugins.formatter, &base, split.train, &mut collected.skipped, progress)?;
    if train.tokens.is_empty() {
        return Err(decide::nothing_to_train(&collected.skipped));
    }
    let held_out =
        format::sft_examples(config, &plugins.formatter, &base, split.held_out, &mut collected.skipped, progress)?;
    dataset::check_leaks(&train.sources, &held_out.sources, &collected.origins)?;

    let run_dir = RunDir::create(&config.output_dir, "sft", &config.agent_type, started_at)?;
    let mut trainer = train::load(config, &base, &train.tokens, &held_out.tokens)?;
    let base_scores = train::evaluate(&mut trainer, &held_out.tokens, "base", progress);
    let (plugin_time, before_training) = (plugins.time_in_calls(), start.elapsed());

    let training = train::train(&mut trainer, &train.tokens, &held_out.tokens, &run_dir, progress)?;
    let adapter_scores = train::evaluate(&mut trainer, &held_out.tokens, "adapter", progress);
    trainer.save(&base, run_dir.path())?;

    let mut report = RunReport {
        tenant_id: config.tenant_id.clone(),
        project: collected.project.clone(),
        agent_type: config.agent_type.clone(),
        decision: choice.into(),
        base_model: config.base_model.clone(),
        lora: config.training.use_lora,
        device: train::device(&trainer),
        spans: collected.spans,
        examples: (&statistics).into(),
        skipped: collected.skipped.clone(),
        n_train: train.tokens.len(),
        n_held_out: held_out.tokens.len(),
        held_out: base_scores.zip(adapter_scores).map(|(base, adapter)| HeldOutComparison::new(base, adapter)),
        final_train_loss: training.final_loss,
        adapter_path: ".".into(), // as `run.json` sees it; the name is given by the commit
        timings: Timings::new(before_training, plugin_time, training.took),
        tokens_per_second: training.tokens_per_second(),
        peak_rss_bytes: peak_rss_bytes(),
    };
    report.timings.total_s = start.elapsed().as_secs_f64();
    outputs::write(
        &run_dir,
        config,
        &report,
        &outputs::Inputs { base: &base, plugins: &plugins, train: &train, held_out: &held_out },
    )?;
    report.adapter_path = run_dir.commit()?;
    Ok(report)
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
