use crate::formatting::{Formatted, PreferenceRecord, TrainingRecord, TripletRecord};
use crate::types::{Example, InstructionExample, PreferencePair, Triplet};

/// One result per example, in order: `instruction` and `preference` give the form, triplets have only one.
///
/// An instruction example without an answer is left out: there would be nothing to train.
pub fn format_each(
    examples: Vec<Example>,
    instruction: impl Fn(InstructionExample) -> TrainingRecord,
    preference: impl Fn(PreferencePair) -> TrainingRecord,
) -> Vec<Formatted> {
    let format = |example| match example {
        Example::Instruction(example) if example.output.trim().is_empty() => Formatted::Skipped("empty output".into()),
        Example::Instruction(example) => Formatted::Ready(instruction(example)),
        Example::Preference(pair) => Formatted::Ready(preference(pair)),
        Example::Triplet(triplet) => Formatted::Ready(triplet_record(triplet)),
    };
    examples.into_iter().map(format).collect()
}

/// Everything up to the response: its heading and line break are the end. Without an input, no input section.
pub fn alpaca_prompt(instruction: &str, input: &str) -> String {
    match input {
        "" => format!("### Instruction:\n{instruction}\n### Response:\n"),
        _ => format!("### Instruction:\n{instruction}\n### Input:\n{input}\n### Response:\n"),
    }
}

/// Both answers after the Alpaca prompt.
pub fn alpaca_preference(pair: PreferencePair) -> TrainingRecord {
    let prompt = alpaca_prompt(&pair.instruction, &pair.input);
    TrainingRecord::Preference(PreferenceRecord { prompt, chosen: pair.chosen, rejected: pair.rejected })
}

fn triplet_record(triplet: Triplet) -> TrainingRecord {
    let Triplet { anchor, positive, negative, .. } = triplet;
    TrainingRecord::Triplet(TripletRecord { anchor, positive, negative })
}
