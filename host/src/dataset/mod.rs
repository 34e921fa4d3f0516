//! Hygiene between the extractor and the trainer.
//!
//! A dataset is a list of the extractor's [`Example`]s, of one kind or of several. The order of work is
//! [`Redactor`] over the spans before they are examples, [`dedupe()`] and where it is asked for [`drop_near_duplicates`]
//! over all of them, then per kind (the method trains one kind) [`split()`], [`check_leaks`], and [`validate()`] and
//! [`check_prompts`] on what the formatter makes of each side. [`Origins`] says where examples come from, and
//! [`SkipTable`] counts what is left out.

mod dedupe;
mod error;
mod leaks;
mod near_duplicates;
mod origins;
mod redact;
mod skip_table;
mod split;
mod validate;

use serde::Serialize;

use crate::plugins::bindings::types::{Example, ExampleKind, Lineage};

pub use dedupe::{CONTRADICTION, DUPLICATE, dedupe, new_to};
pub use error::DatasetError;
pub use leaks::{check_leaks, check_prompts};
pub use near_duplicates::{
    NEAR_DUPLICATE, NearDuplicateConfig, NearDuplicates, Shingles, drop_near_duplicates, near_training,
};
pub use origins::{Origin, Origins};
pub use redact::{
    Detector, Pattern, RedactionConfig, RedactionCounts, RedactionMode, Redactor, names as attribute_pattern_names,
};
pub use skip_table::SkipTable;
pub use split::{Split, apart_from, held_out_target, split};
pub use validate::validate;

/// The kind that a training method needs.
pub fn kind(example: &Example) -> ExampleKind {
    match example {
        Example::Instruction(_) => ExampleKind::ApprovedExample,
        Example::Preference(_) => ExampleKind::PreferencePair,
        Example::Triplet(_) => ExampleKind::Triplet,
    }
}

/// What the model is given: the input, or a triplet's anchor.
pub fn input(example: &Example) -> &str {
    match example {
        Example::Instruction(example) => &example.input,
        Example::Preference(pair) => &pair.input,
        Example::Triplet(triplet) => &triplet.anchor,
    }
}

/// What the model should say: the output, or what is preferred to something else.
pub fn output(example: &Example) -> &str {
    match example {
        Example::Instruction(example) => &example.output,
        Example::Preference(pair) => &pair.chosen,
        Example::Triplet(triplet) => &triplet.positive,
    }
}

/// Where an example came from.
pub fn lineage(example: &Example) -> &Lineage {
    match example {
        Example::Instruction(example) => &example.lineage,
        Example::Preference(pair) => &pair.lineage,
        Example::Triplet(triplet) => &triplet.lineage,
    }
}

/// The examples of one kind, in order.
pub fn of_kind(examples: &[Example], wanted: ExampleKind) -> Vec<Example> {
    examples.iter().filter(|example| kind(example) == wanted).cloned().collect()
}

/// How many examples of one kind there are.
pub fn count(examples: &[Example], wanted: ExampleKind) -> usize {
    examples.iter().filter(|example| kind(example) == wanted).count()
}

/// How many examples of each kind there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KindCounts {
    /// For SFT.
    pub approved_examples: usize,
    /// For DPO.
    pub preference_pairs: usize,
    /// For embedding models.
    pub triplets: usize,
}

/// How many examples of each kind there are.
pub fn counts(examples: &[Example]) -> KindCounts {
    KindCounts {
        approved_examples: count(examples, ExampleKind::ApprovedExample),
        preference_pairs: count(examples, ExampleKind::PreferencePair),
        triplets: count(examples, ExampleKind::Triplet),
    }
}

fn lineage_mut(example: &mut Example) -> &mut Lineage {
    match example {
        Example::Instruction(example) => &mut example.lineage,
        Example::Preference(pair) => &mut pair.lineage,
        Example::Triplet(triplet) => &mut triplet.lineage,
    }
}

/// Trimmed, every run of white space one blank: what counts as the same text.
fn normalised(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod testing {
    use crate::plugins::bindings::types::{Example, InstructionExample, Lineage, PreferencePair, Triplet};

    /// Lineage of one span, in a trace of its own.
    pub(super) fn lineage(span: &str) -> Lineage {
        Lineage {
            span_ids: vec![span.to_owned()],
            trace_id: format!("trace-{span}"),
            session_id: None,
            annotation_names: vec!["human_approval".to_owned()],
        }
    }

    pub(super) fn instruction(span: &str, input: &str, output: &str) -> Example {
        Example::Instruction(InstructionExample {
            instruction: "Route".to_owned(),
            input: input.to_owned(),
            output: output.to_owned(),
            corrected: false,
            lineage: lineage(span),
        })
    }

    pub(super) fn pair(span: &str, input: &str, chosen: &str, rejected: &str) -> Example {
        Example::Preference(PreferencePair {
            instruction: "Route".to_owned(),
            input: input.to_owned(),
            chosen: chosen.to_owned(),
            rejected: rejected.to_owned(),
            lineage: lineage(span),
        })
    }

    pub(super) fn triplet(span: &str, anchor: &str, positive: &str, negative: &str) -> Example {
        Example::Triplet(Triplet {
            anchor: anchor.to_owned(),
            positive: positive.to_owned(),
            negative: negative.to_owned(),
            lineage: lineage(span),
        })
    }
}
