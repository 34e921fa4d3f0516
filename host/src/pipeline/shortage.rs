//! A run that has too little: what it lacks is generated, and waits for people.

use crate::approval::{ApprovalStore, Content, Filter, NewBatch, State, kind_name};
use crate::config::RunConfig;
use crate::dataset;
use crate::error::HostError;
use crate::plugins::bindings::selection_policy::Shortfall;
use crate::plugins::bindings::types::{Example, ExampleKind, Lineage};
use crate::progress::Progress;
use crate::runs::WaitsFor;
use crate::synthetic::{self, Generated, Wanted};

use super::admission::KINDS;
use super::{Admitted, Collected, decide};

/// Generated for each that is missing: people reject some.
const SPARE: f64 = 1.25;
/// Batches that one run asks people to look at; who rejects them all wants no more of them.
const MOST_BATCHES: usize = 4;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What there is, and what is missing.
pub struct Shortage {
    pub(super) collected: Collected,
    pub(super) shortfalls: Vec<Shortfall>,
    /// The policy's words, or those of the method's threshold.
    pub(super) reason: String,
}

/// What became of a shortage.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Submitted {
    /// The batch that was generated now; none where enough waits already.
    pub batch: Option<i64>,
    /// Its items.
    pub generated: usize,
    /// What made them.
    pub generator: Option<&'static str>,
    /// What the generator made that is no candidate, by reason.
    pub left_out: dataset::SkipTable,
}

impl Shortage {
    /// Sees to it that enough waits for people, and says what the run waits for.
    ///
    /// # Errors
    /// [`HostError::Insufficient`] where nothing could be generated, or people have turned enough of it down; those of the generator
    /// and of the approval store.
    pub fn fill(&self, config: &RunConfig, run: &str, progress: &Progress) -> Result<(WaitsFor, Submitted), HostError> {
        let mut store = ApprovalStore::open_or_create(&config.review.approvals)?;
        store.expire()?;
        let pending = |kind| self.pending(config, &store, kind);
        let (shortfall, waiting) = self.nearest(pending)?;
        let missing = (shortfall.need.saturating_sub(shortfall.have)) as usize;
        let mut submitted =
            Submitted { batch: None, generated: 0, generator: None, left_out: dataset::SkipTable::default() };
        if waiting.len() < missing {
            let asked = store.batches()?.iter().filter(|batch| batch.batch.run.as_deref() == Some(run)).count();
            if asked >= MOST_BATCHES {
                let turned_down =
                    format!("{}; {asked} batches were generated, and too little of them was approved", self.reason);
                return Err(decide::insufficient(config, turned_down));
            }
            let count = ((missing - waiting.len()) as f64 * SPARE).ceil() as usize;
            let batch = self.generate(config, shortfall.kind, count, &waiting, progress)?;
            submitted.generator = Some(batch.generator.name());
            submitted.generated = batch.candidates.len();
            submitted.left_out = batch.left_out.clone();
            if batch.candidates.is_empty() && waiting.is_empty() {
                let nothing = format!(
                    "{}; the generator (`{}`) gave nothing that could be used ({})",
                    self.reason,
                    batch.generator.name(),
                    decide::most_frequent(&batch.left_out)
                );
                return Err(decide::insufficient(config, nothing));
            }
            if !batch.candidates.is_empty() {
                submitted.batch = Some(self.submit(config, &mut store, run, shortfall.kind, batch)?);
            }
        }
        let waits_for = WaitsFor {
            project: self.collected.project.clone(),
            kind: kind_name(shortfall.kind).to_owned(),
            reason: self.reason.clone(),
            have: shortfall.have,
            need: shortfall.need,
            pending: (waiting.len() + submitted.generated) as u64,
        };
        Ok((waits_for, submitted))
    }

    /// The kind that is filled with the fewest, of those that a generator can be shown examples for; and what of it waits already.
    fn nearest(
        &self,
        pending: impl Fn(ExampleKind) -> Result<Vec<Content>, HostError>,
    ) -> Result<(Shortfall, Vec<Content>), HostError> {
        let mut nearest: Option<(usize, Shortfall, Vec<Content>)> = None;
        for &shortfall in &self.shortfalls {
            let waiting = pending(shortfall.kind)?;
            let missing = (shortfall.need.saturating_sub(shortfall.have) as usize).saturating_sub(waiting.len());
            // Of equals the policy's first.
            if nearest.as_ref().is_none_or(|(least, ..)| missing < *least) {
                nearest = Some((missing, shortfall, waiting));
            }
        }
        // A policy that names none is refused where it answers.
        let (_, shortfall, waiting) = nearest.ok_or_else(|| HostError::Insufficient { reason: self.reason.clone() })?;
        Ok((shortfall, waiting))
    }

    fn pending(&self, config: &RunConfig, store: &ApprovalStore, kind: ExampleKind) -> Result<Vec<Content>, HostError> {
        let filter = Filter {
            state: Some(State::Pending),
            project: Some(self.collected.project.clone()),
            agent_type: Some(config.agent_type.clone()),
            kind: Some(kind),
            ..Filter::default()
        };
        Ok(store.items(&filter, None, usize::MAX)?.items.into_iter().map(|item| item.content).collect())
    }

    /// The generator is shown what trains, whatever happens, and never what judges.
    fn generate(
        &self,
        config: &RunConfig,
        kind: ExampleKind,
        count: usize,
        waiting: &[Content],
        progress: &Progress,
    ) -> Result<Generated, HostError> {
        let approved = self.collected.approved();
        let held_out = self.held_out(config, kind)?;
        let parents = dataset::apart_from(self.collected.examples(), &held_out, &self.collected.origins);
        let waiting = waiting.iter().map(|content| content.example(no_lineage()));
        let approved = approved.iter().map(|admitted| admitted.example().clone());
        let existing: Vec<Example> = parents.iter().cloned().chain(approved).chain(waiting).collect();
        let wanted = Wanted {
            project: &self.collected.project,
            agent_type: &config.agent_type,
            instruction: &config.extraction.instruction,
            kind,
            count,
            parents: &parents,
            existing: &existing,
            held_out: &held_out,
        };
        Ok(synthetic::generate(config, &wanted, progress)?)
    }

    /// Of that kind, and where it has none of its own yet, of all kinds: what will be held out then is not known.
    fn held_out(&self, config: &RunConfig, kind: ExampleKind) -> Result<Vec<Example>, HostError> {
        let examples = self.collected.examples();
        let mut held_out = Vec::new();
        for of in KINDS.into_iter().filter(|&of| of == kind || dataset::count(examples, kind) == 0) {
            let approved = self.collected.approved().iter().filter(|approved| dataset::kind(approved.example()) == of);
            let approved: Vec<Admitted> = approved.cloned().collect();
            held_out.extend(self.collected.held_out(config, of, &approved)?);
        }
        Ok(held_out)
    }

    fn submit(
        &self,
        config: &RunConfig,
        store: &mut ApprovalStore,
        run: &str,
        kind: ExampleKind,
        generated: Generated,
    ) -> Result<i64, HostError> {
        let held_out = self.held_out(config, kind)?;
        let expires_in_ms = i64::from(config.review.expire_after_days) * DAY_MS;
        Ok(store.submit(NewBatch {
            project: self.collected.project.clone(),
            agent_type: config.agent_type.clone(),
            run: Some(run.to_owned()),
            generator: generated.generator.name().to_owned(),
            model: generated.model,
            parents: generated.parents,
            held_out: held_out.iter().map(Content::of).collect(),
            candidates: generated.candidates,
            expires_at_ms: Some(jiff::Timestamp::now().as_millisecond() + expires_in_ms),
        })?)
    }
}

/// What nobody has approved comes from nowhere yet.
fn no_lineage() -> Lineage {
    Lineage { span_ids: Vec::new(), trace_id: String::new(), session_id: None, annotation_names: Vec::new() }
}
