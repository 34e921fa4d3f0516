//! `tunesmith train`: a bundle, on the machine where this runs.

use std::path::Path;

use super::{Answer, interrupt};
use crate::cli::TrainArgs;
use crate::error::HostError;
use crate::job::{Attempt, JobResult};
use crate::progress::Progress;
use crate::report;
use crate::tenants::Scope;

pub(super) fn run(scope: &Scope, args: TrainArgs, progress: &Progress) -> Result<Answer, HostError> {
    match args.job.contains("://") {
        true => scope.check_address("--job", &args.job)?,
        false => scope.check_read("--job", Path::new(&args.job))?,
    }
    if let Some(url) = &args.artefacts {
        scope.check_address("--artefacts", url)?;
    }
    scope.check_write("--out", &args.out)?;
    let attempt = Attempt { job: args.job, out: args.out, number: args.attempt.get(), artefacts: args.artefacts };
    let result = attempt.run(interrupt::watch(), progress)?;
    Ok(Answer::new(told(&result, &attempt.out), &result))
}

fn told(result: &JobResult, out: &Path) -> String {
    let produced = &result.produced;
    let scores = produced.held_out.map(|(base, adapter)| {
        let comparison = report::HeldOutComparison::new(base, adapter);
        format!(", held-out loss {:.4} -> {:.4}: {}", base.loss, adapter.loss, comparison.verdict())
    });
    format!(
        "{} steps in {:.1} s on {}, last loss {:.4}{}\nthe adapter is in `{}`",
        produced.steps,
        produced.training_s,
        produced.device,
        produced.final_train_loss,
        scores.unwrap_or_default(),
        out.join(crate::job::ADAPTER_DIR).display()
    )
}
