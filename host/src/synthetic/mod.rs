//! Generators of examples, for people to look at before anything of it trains.
//!
//! - A generator is shown [`Wanted::parents`] and nothing else: no held-out text reaches a prompt or a server.
//! - Whatever it gives goes through one sieve: redacted, checked, compared with what is there and with what is held out.
//!   What does not come through is counted.
//! - A candidate says what it was made of: its parents, the digest of its prompt, the seed.

mod answers;
mod base_model;
mod draw;
mod endpoint;
mod error;
mod prompt;
mod proposal;
mod reply;
mod sieve;
mod templates;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::approval::{self, Candidate, Content};
use crate::config::{GeneratorChoice, RunConfig};
use crate::dataset::{self, SkipTable};
use crate::plugins::bindings::types::{Example, ExampleKind};
use crate::progress::Progress;

pub use error::SyntheticError;

use sieve::Sieve;

/// What is wanted, and of what.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The telemetry project; names only.
    pub project: &'a str,
    /// Who is to learn from it.
    pub agent_type: &'a str,
    /// What that agent is told to do.
    pub instruction: &'a str,
    /// What the method trains.
    pub kind: ExampleKind,
    /// How many.
    pub count: usize,
    /// Real examples that people approved, of training alone: what a generator is shown.
    pub parents: &'a [Example],
    /// All that is there: of training, approved before, and still waiting. Nothing is made again.
    pub existing: &'a [Example],
    /// What judges the training: nothing near it comes out, and no generator sees it.
    pub held_out: &'a [Example],
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Generated {
    /// Who made it.
    pub generator: Generator,
    /// The model that answered, where one did.
    pub model: Option<String>,
    /// What the generator was shown, once each.
    pub parents: Vec<approval::Parent>,
    /// At most as many as were wanted.
    pub candidates: Vec<Candidate>,
    /// What was generated and did not come through, by reason.
    pub left_out: SkipTable,
    /// What it took.
    pub spent: Spent,
}

/// Who makes examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Generator {
    /// A server's model.
    Endpoint,
    /// The base model itself.
    BaseModel,
    /// Recombination of parents.
    Templates,
}

impl Generator {
    /// As the approval store has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::BaseModel => "base_model",
            Self::Templates => "templates",
        }
    }
}

/// What a generation took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Spent {
    /// Requests to a server, or prompts to a model; repetitions included.
    pub requests: u64,
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// Requests that repeated one that failed in passing.
    pub retries: u64,
}

/// Makes up to [`Wanted::count`] candidates. Fewer are a warning in the log.
///
/// # Errors
/// [`SyntheticError`]: where there is nothing to start from, and where the generator that is named, or with `auto` every
/// one, fails before it has given anything.
pub fn generate(config: &RunConfig, wanted: &Wanted<'_>, progress: &Progress) -> Result<Generated, SyntheticError> {
    if !wanted.parents.iter().any(|parent| proposal::serves(parent, wanted.kind)) {
        return Err(SyntheticError::NoParents { kind: proposal::plural(wanted.kind) });
    }
    let generated = match config.synthetic.generator {
        GeneratorChoice::Auto => by_the_first(config, wanted, progress)?,
        GeneratorChoice::Endpoint => by_endpoint(config, wanted, progress)?,
        GeneratorChoice::BaseModel => by_base_model(config, wanted, progress)?,
        GeneratorChoice::Templates => by_templates(config, wanted, progress)?,
    };
    if generated.candidates.len() < wanted.count {
        tracing::warn!(
            "`{}` gave {} of {} examples; left out: {}",
            generated.generator.name(),
            generated.candidates.len(),
            wanted.count,
            error::listed(&generated.left_out)
        );
    }
    Ok(generated)
}

/// The first generator that gives an example.
fn by_the_first(config: &RunConfig, wanted: &Wanted<'_>, progress: &Progress) -> Result<Generated, SyntheticError> {
    let failed = |generator: Generator, next: &str, error: &SyntheticError| {
        tracing::warn!("`{}` generated nothing, {next} is next: {error}", generator.name());
    };
    if config.synthetic.endpoint.is_some() {
        match by_endpoint(config, wanted, progress) {
            Ok(generated) if !generated.candidates.is_empty() => return Ok(generated),
            Ok(generated) => failed(Generator::Endpoint, "the base model", &nothing(&generated)),
            Err(SyntheticError::Interrupted) => return Err(SyntheticError::Interrupted),
            Err(error) => failed(Generator::Endpoint, "the base model", &error),
        }
    }
    match by_base_model(config, wanted, progress) {
        Err(SyntheticError::Interrupted) => return Err(SyntheticError::Interrupted),
        Err(error) => failed(Generator::BaseModel, "recombination", &error),
        done => return done,
    }
    by_templates(config, wanted, progress)
}

fn by_endpoint(config: &RunConfig, wanted: &Wanted<'_>, progress: &Progress) -> Result<Generated, SyntheticError> {
    let endpoint = config.synthetic.endpoint.as_ref().ok_or(SyntheticError::NoEndpoint)?;
    let mut sieve = Sieve::new(config, wanted);
    let asked = endpoint::fill(&mut sieve, config, endpoint, wanted, seed(config, wanted), progress)?;
    if asked.out_of_budget {
        tracing::warn!(
            "the budget for generated examples is spent: {} of {} requests (`--synthetic-max-requests`), {} of {} tokens \
             (`--synthetic-max-tokens`)",
            asked.spent.requests,
            endpoint.max_requests,
            asked.spent.prompt_tokens + asked.spent.completion_tokens,
            endpoint.max_tokens
        );
    }
    let generated = finish(Generator::Endpoint, Some(asked.model), sieve, wanted, asked.spent);
    // Who set the budget is told that it was spent; nothing failed.
    if asked.out_of_budget { Ok(generated) } else { given(generated) }
}

fn by_base_model(config: &RunConfig, wanted: &Wanted<'_>, progress: &Progress) -> Result<Generated, SyntheticError> {
    let mut sieve = Sieve::new(config, wanted);
    let (model, spent) = base_model::fill(&mut sieve, config, wanted, seed(config, wanted), progress)?;
    given(finish(Generator::BaseModel, Some(model), sieve, wanted, spent))
}

fn by_templates(config: &RunConfig, wanted: &Wanted<'_>, progress: &Progress) -> Result<Generated, SyntheticError> {
    let mut sieve = Sieve::new(config, wanted);
    templates::fill(&mut sieve, wanted, seed(config, wanted), progress)?;
    given(finish(Generator::Templates, None, sieve, wanted, Spent::default()))
}

/// Of one generation: another than that of the last one, whose examples are there by now.
fn seed(config: &RunConfig, wanted: &Wanted<'_>) -> u64 {
    draw::mixed(config.training.seed, wanted.existing.len() as u64)
}

fn finish(
    generator: Generator,
    model: Option<String>,
    sieve: Sieve<'_>,
    wanted: &Wanted<'_>,
    spent: Spent,
) -> Generated {
    let (mut candidates, left_out) = sieve.finish();
    let shown: BTreeSet<usize> = candidates.iter().flat_map(|candidate| candidate.parents.iter().copied()).collect();
    for candidate in &mut candidates {
        candidate.parents = candidate.parents.iter().map(|parent| shown.range(..parent).count()).collect();
    }
    let parents = shown.iter().map(|&parent| parent_of(&wanted.parents[parent])).collect();
    Generated { generator, model, parents, candidates, left_out, spent }
}

/// An error where there is nothing.
fn given(generated: Generated) -> Result<Generated, SyntheticError> {
    if generated.candidates.is_empty() { Err(nothing(&generated)) } else { Ok(generated) }
}

fn nothing(generated: &Generated) -> SyntheticError {
    let left_out = error::listed(&generated.left_out);
    SyntheticError::Nothing { generator: generated.generator.name(), left_out }
}

fn parent_of(example: &Example) -> approval::Parent {
    let lineage = dataset::lineage(example);
    approval::Parent {
        span_ids: lineage.span_ids.clone(),
        trace_id: lineage.trace_id.clone(),
        content: Content::of(example),
    }
}

#[cfg(test)]
mod tests;
