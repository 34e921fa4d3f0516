//! Approved examples join those of spans.

use std::borrow::Borrow;

use crate::approval::{ApprovalError, ApprovalStore, Approved};
use crate::config::RunConfig;
use crate::dataset::{self, SkipTable};
use crate::error::HostError;
use crate::plugins::bindings::types::{Example, ExampleKind};

use super::{Admitted, Collected};

/// Reason of an approved example that the adapter would be judged by.
const HELD_OUT: &str = "approved, but nearly a held-out example";

/// The kinds of examples.
pub(super) const KINDS: [ExampleKind; 3] =
    [ExampleKind::ApprovedExample, ExampleKind::PreferencePair, ExampleKind::Triplet];

impl Collected {
    /// Lets in what people approved for this project and agent, by the approval store's log. What the spans say already, or say
    /// otherwise, is left out and counted; so is what is nearly held out.
    ///
    /// # Errors
    /// [`HostError::Approval`], [`HostError::Dataset`].
    pub fn admit_approved(&mut self, config: &RunConfig) -> Result<(), HostError> {
        let store = match ApprovalStore::open(&config.review.approvals) {
            Ok(store) => store,
            Err(ApprovalError::NotFound { .. }) => return Ok(()), // nothing was ever generated
            Err(error) => return Err(error.into()),
        };
        self.admit(config, store.approved(&self.project, &config.agent_type)?)
    }

    /// Lets in what people approved.
    ///
    /// # Errors
    /// [`HostError::Dataset`].
    pub fn admit(&mut self, config: &RunConfig, approved: Vec<Approved<Example>>) -> Result<(), HostError> {
        let admitted: Vec<Admitted> = approved.into_iter().map(Admitted::from).collect();
        let distinct = dataset::new_to(&self.examples, admitted, &mut self.skipped);
        let mut of_kinds = Vec::new();
        for kind in KINDS {
            let of_kind = distinct.iter().filter(|admitted| dataset::kind(admitted.example()) == kind).cloned();
            let of_kind: Vec<Admitted> = of_kind.collect();
            if !of_kind.is_empty() {
                let held_out = self.held_out(config, kind, &of_kind)?;
                of_kinds.extend(without(of_kind, &held_out, config, &mut self.skipped));
            }
        }
        self.approved = of_kinds;
        Ok(())
    }

    /// Of the spans' examples of one kind those that are held out where `approved` trains too.
    pub(super) fn held_out<E: Borrow<Example>>(
        &self,
        config: &RunConfig,
        kind: ExampleKind,
        approved: &[E],
    ) -> Result<Vec<Example>, HostError> {
        let real = dataset::of_kind(&self.examples, kind);
        let split = dataset::split(real, &self.origins, config.training.seed, config.dataset.ties(), approved)?;
        Ok(split.held_out)
    }
}

fn without(
    approved: Vec<Admitted>,
    held_out: &[Example],
    config: &RunConfig,
    skipped: &mut SkipTable,
) -> impl Iterator<Item = Admitted> {
    let threshold = config.dataset.near_duplicate_threshold;
    let held_out: Vec<_> = held_out.iter().map(|example| dataset::Shingles::of(dataset::input(example))).collect();
    let near = |admitted: &Admitted| {
        let own = dataset::Shingles::of(dataset::input(admitted.example()));
        held_out.iter().any(|held_out| own.overlap(held_out) >= threshold)
    };
    let (near, apart): (Vec<_>, Vec<_>) = approved.into_iter().partition(near);
    skipped.add_many(HELD_OUT, near.len() as u64);
    apart.into_iter()
}

#[cfg(test)]
mod tests;
