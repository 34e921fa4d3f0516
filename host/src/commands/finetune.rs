//! `tunesmith finetune`, and the way of a run that people are asked something for: it trains, or waits, or ends.

use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::{Answer, interrupt};
use crate::approval::{self, ApprovalError, ApprovalStore, Counts, Filter};
use crate::cli::FinetuneArgs;
use crate::config::{Options, RunConfig};
use crate::error::HostError;
use crate::pipeline::{self, Checkpoint, Outcome, Submitted};
use crate::plugins::bindings::types::ExampleKind;
use crate::progress::Progress;
use crate::runs::{HeldRun, RunState, RunStore, WaitsFor, runs_beside};
use crate::tenants::Scope;

/// A person is not kept waiting by less, and a processor not kept busy.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The exit code of a run that waits for people.
const WAITING: u8 = 3;

pub(super) fn run(scope: &Scope, args: FinetuneArgs, progress: &Progress) -> Result<Answer, HostError> {
    let (options, file) = scope.load(args.run.config.as_deref(), &args.run.options)?;
    if let Some(file) = file {
        tracing::info!("configuration from {}", file.display());
    }
    let config = RunConfig::new(options.clone())?;
    let checkpoint = if args.resume { Checkpoint::Take } else { Checkpoint::Ignore };
    // What waits already goes on, rather than asking people twice.
    let held = RunStore::new(runs_beside(&config.review.approvals)).unfinished(&config, &options)?;
    go(&config, &options, held, checkpoint, args.wait_for_approval, progress)
}

/// Goes on with a run until it is done, or waits and nobody waits for it.
pub(super) fn go(
    config: &RunConfig,
    options: &Options,
    mut held: Option<HeldRun>,
    mut checkpoint: Checkpoint,
    wait: bool,
    progress: &Progress,
) -> Result<Answer, HostError> {
    let progress = progress.clone().stopped_by(interrupt::watch());
    loop {
        let (waits_for, submitted) = match step(config, options, &mut held, checkpoint, &progress) {
            Ok(Step::Trained(answer)) => return Ok(*answer),
            Ok(Step::Waits(waits_for, submitted)) => (waits_for, submitted),
            Err(error) => {
                if let Some(held) = held.as_mut().filter(|_| !matches!(error, HostError::Interrupted)) {
                    held.note(RunState::Failed { error: error.describe() })?;
                }
                return Err(error);
            }
        };
        let waiting = Waiting::new(config, options, held.as_ref(), waits_for, submitted);
        if !wait {
            return Ok(waiting.answer());
        }
        tracing::info!("{}", waiting.how_to_review());
        match wait_for_people(config, &waiting.waits_for, &progress) {
            Ok(()) => {}
            Err(HostError::Interrupted) => return Ok(waiting.answer()),
            Err(error) => return Err(error),
        }
        if let Some(held) = held.as_mut() {
            held.note(RunState::Running)?;
        }
        checkpoint = Checkpoint::TakeIfThere;
    }
}

enum Step {
    Trained(Box<Answer>),
    Waits(WaitsFor, Submitted),
}

fn step(
    config: &RunConfig,
    options: &Options,
    held: &mut Option<HeldRun>,
    checkpoint: Checkpoint,
    progress: &Progress,
) -> Result<Step, HostError> {
    match pipeline::finetune(config, checkpoint, progress)? {
        Outcome::Trained(report) => {
            if let Some(held) = held {
                held.note(RunState::Finished { adapter: report.adapter_path.clone() })?;
            }
            if let Some(phoenix) = config.telemetry.phoenix.as_ref().filter(|phoenix| phoenix.write_back)
                && let Err(error) = pipeline::mark_used(phoenix, &report.adapter_path, progress)
            {
                // The adapter is there all the same.
                let folder = report.adapter_path.display();
                tracing::warn!("{error}; mark the spans later with `tunesmith mark --adapter {folder}`");
            }
            Ok(Step::Trained(Box::new(Answer::new(&report, &report))))
        }
        Outcome::Short(shortage) => {
            let held = match held {
                Some(held) => held,
                None => held.insert(RunStore::new(runs_beside(&config.review.approvals)).begin(config, options)?),
            };
            let (waits_for, submitted) = shortage.fill(config, &held.record().id, progress)?;
            held.wait(waits_for.clone())?;
            Ok(Step::Waits(waits_for, submitted))
        }
    }
}

/// Returns where enough is approved, or nothing is left to decide.
fn wait_for_people(config: &RunConfig, waits_for: &WaitsFor, progress: &Progress) -> Result<(), HostError> {
    let mut store = ApprovalStore::open_or_create(&config.review.approvals)?;
    let kinds = [ExampleKind::ApprovedExample, ExampleKind::PreferencePair, ExampleKind::Triplet];
    let filter = Filter {
        project: Some(waits_for.project.clone()),
        agent_type: Some(config.agent_type.clone()),
        kind: kinds.into_iter().find(|&kind| approval::kind_name(kind) == waits_for.kind),
        ..Filter::default()
    };
    let missing = u64::from(waits_for.missing());
    let decided = |counts: &Counts| counts.total() - counts.pending;
    let first = store.counts(&filter)?;
    let stage = progress.stage("review", missing);
    loop {
        progress.check_stop()?;
        match store.expire().and_then(|_| store.counts(&filter)) {
            Ok(counts) => {
                let approved = counts.trains().saturating_sub(first.trains());
                let told = format!("approved, {} still to decide", counts.pending);
                stage.at(approved.min(missing), &told);
                if approved >= missing || (counts.pending == 0 && decided(&counts) > decided(&first)) {
                    stage.finish(&format!("{approved} {told}"));
                    return Ok(());
                }
            }
            Err(error @ ApprovalError::Busy { .. }) => tracing::warn!("{error}"),
            Err(error) => return Err(error.into()),
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// What a run waits for, and how it is given.
#[derive(Debug, Serialize)]
struct Waiting {
    run: String,
    waits_for: WaitsFor,
    submitted: Submitted,
    /// Commands to review with.
    review: [String; 2],
    /// The command to go on with.
    resume: String,
}

impl Waiting {
    fn new(
        config: &RunConfig,
        options: &Options,
        held: Option<&HeldRun>,
        waits_for: WaitsFor,
        submitted: Submitted,
    ) -> Self {
        let run = held.map(|held| held.record().id.clone()).unwrap_or_default();
        // Whatever folder they are given in.
        let absolute =
            |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
        let file = options.plugins.sources.file.as_deref().map(|file| format!("--config '{}' ", absolute(file)));
        let flags = format!("{}--approvals '{}'", file.unwrap_or_default(), absolute(&config.review.approvals));
        Self {
            review: [format!("tunesmith review {flags}"), format!("tunesmith serve {flags}")],
            resume: format!("tunesmith runs resume {run} {flags}"),
            run,
            waits_for,
            submitted,
        }
    }

    fn how_to_review(&self) -> String {
        let WaitsFor { reason, pending, .. } = &self.waits_for;
        let made = match (self.submitted.generator, self.submitted.batch) {
            (Some(generator), Some(batch)) => {
                format!("{} were generated now ({generator}, batch {batch}). ", self.submitted.generated)
            }
            _ => String::new(),
        };
        format!(
            "{}. {made}{pending} generated {} for a person; {} must be approved.\n\n\
             review them in this terminal:  {}\n\
             or in a browser:               {}",
            reason.trim_end_matches('.'),
            if *pending == 1 { "example waits" } else { "examples wait" },
            self.waits_for.missing(),
            self.review[0],
            self.review[1]
        )
    }

    fn answer(&self) -> Answer {
        let text = format!("{}\nthen go on with:               {}", self.how_to_review(), self.resume);
        Answer { exit_code: WAITING, ..Answer::new(text, &serde_json::json!({ "waiting": self })) }
    }
}
