//! Spans to distinct examples: redaction, the extractor over every batch of the project, then deduplication.

use crate::config::RunConfig;
use crate::dataset::{self, KindCounts, NearDuplicates, Origins, RedactionCounts, Redactor, SkipTable};
use crate::error::HostError;
use crate::plugins::Extractor;
use crate::plugins::bindings::selection_policy::DatasetStatistics;
use crate::plugins::bindings::types::{Example, ExampleKind};
use crate::progress::Progress;
use crate::telemetry::BatchLimits;

use super::failures::BatchFailures;
use super::{Admitted, Source};

/// Warnings of a run that are told one by one; a broken exporter would else write one a span.
const MAX_WARNINGS: u64 = 20;

/// What extraction gave.
pub struct Collected {
    /// The telemetry project.
    pub project: String,
    /// Spans that the extractor saw.
    pub spans: u64,
    /// What the extractor made of them.
    pub extracted: KindCounts,
    /// Distinct examples of every kind. Nobody else adds any.
    pub(super) examples: Vec<Example>,
    /// Generated ones that people approved.
    pub(super) approved: Vec<Admitted>,
    /// Where they came from.
    pub origins: Origins,
    /// What was left out, and why.
    pub skipped: SkipTable,
    /// What was taken out of the spans before the extractor saw them.
    pub redacted: RedactionCounts,
}

impl Collected {
    /// Distinct examples that spans gave.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// Examples that were generated, and that people approved.
    pub fn approved(&self) -> &[Admitted] {
        &self.approved
    }
}

/// Reads the spans that the extractor selects, batch by batch, and keeps the distinct examples.
///
/// Memory grows with the examples, not with the spans.
///
/// # Errors
/// [`HostError::Telemetry`] and [`HostError::Plugin`].
pub fn collect(
    config: &RunConfig,
    source: &Source,
    extractor: &Extractor,
    progress: &Progress,
) -> Result<Collected, HostError> {
    let rules = extractor.selection(&config.extraction)?;
    let stage = progress.stage("extract", source.store.count_matching(&source.project, &rules)?);
    let (mut spans, mut warnings) = (0, 0);
    let (mut examples, mut origins, mut skipped) = (Vec::new(), Origins::default(), SkipTable::default());
    let own = &config.extraction.own_span_attributes;
    let mut redactor = Redactor::new(&config.redaction, &rules, own, setting(config, "click_attribute"));
    let mut failures = BatchFailures::new(config.plugins.on_failure);
    let mut batches =
        source.store.batches(&source.project, &rules, setting(config, "input_key"), BatchLimits::default())?;
    for (index, batch) in batches.by_ref().enumerate() {
        progress.check_stop()?;
        let mut batch = batch?;
        batch.iter_mut().for_each(|span| redactor.redact(span));
        spans += batch.len() as u64;
        let outcome = extractor.extract(&config.extraction, &batch, index + 1);
        let Some(extraction) = failures.settle(outcome, batch.len(), &mut skipped)? else { continue };
        for left_out in &extraction.skipped {
            skipped.add_of_plugin(&left_out.reason);
            if let Some(warning) = &left_out.warning {
                warnings += 1;
                if warnings <= MAX_WARNINGS {
                    // Most plugins name the span in their words.
                    match warning.contains(&left_out.span_id) {
                        true => tracing::warn!("{warning}"),
                        false => tracing::warn!("span {}: {warning}", left_out.span_id),
                    }
                }
            }
        }
        origins.note(&batch, &extraction.examples);
        examples.extend(extraction.examples);
        stage.at(spans, &format!("{} examples", examples.len()));
    }
    failures.finish()?;
    if warnings > MAX_WARNINGS {
        tracing::warn!("{} more spans with warnings", warnings - MAX_WARNINGS);
    }
    if batches.split_groups() > 0 {
        tracing::warn!(
            "{} inputs have more spans than a batch: some of their answers were not compared",
            batches.split_groups()
        );
    }
    let extracted = dataset::counts(&examples);
    let mut examples = dataset::dedupe(examples, &origins, &mut skipped);
    if config.dataset.near_duplicates == NearDuplicates::Drop {
        examples = dataset::drop_near_duplicates(examples, config.dataset.near_duplicate_threshold, &mut skipped);
    }
    stage.finish(&format!("{} distinct examples from {spans} spans", examples.len()));
    let redacted = redactor.counts().clone();
    Ok(Collected {
        project: source.project.clone(),
        spans,
        extracted,
        examples,
        approved: Vec::new(),
        origins,
        skipped,
        redacted,
    })
}

/// A setting of the built-in extractor, which a tenant's may have as well: what it takes for one input has to be in one
/// batch, and what refers to ids has to be redacted as they are.
fn setting<'a>(config: &'a RunConfig, name: &str) -> Option<&'a str> {
    config.extraction.settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Counts of what would train: distinct examples less those that would be held out, and what was approved, none of which is.
pub fn statistics(config: &RunConfig, collected: &Collected) -> DatasetStatistics {
    let trainable = |kind| {
        let n = dataset::count(&collected.examples, kind);
        let approved = collected.approved.iter().filter(|approved| dataset::kind(approved.example()) == kind).count();
        (n - dataset::held_out_target(n) + approved) as u32
    };
    DatasetStatistics {
        agent_type: config.agent_type.clone(),
        model_type: config.extraction.model_type,
        approved_examples: trainable(ExampleKind::ApprovedExample),
        preference_pairs: trainable(ExampleKind::PreferencePair),
        triplets: trainable(ExampleKind::Triplet),
    }
}
