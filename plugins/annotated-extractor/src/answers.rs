//! Examples for language models: approved and corrected answers, and pairs of a preferred and a rejected one.

use std::collections::HashMap;

use plugin_settings::Settings;

use crate::extraction::{Extraction, ExtractionConfig, Skipped};
use crate::matching;
use crate::text::{input, lineage, output};
use crate::types::{Example, InstructionExample, Lineage, PreferencePair, Span};
use crate::verdict::{Judge, Verdict};

/// `max_pairs_per_span`: with how many different approved answers to its input a rejected answer is paired.
pub(crate) const SETTINGS: &[&str] = &["max_pairs_per_span"];

/// Keeps a batch's output in proportion to its input: 512 approved and 512 rejected answers to one input would be
/// 262,144 pairs.
pub(crate) struct Limits {
    pairs_per_span: usize,
}

impl Limits {
    pub(crate) fn new(settings: &Settings) -> Result<Self, String> {
        const EXPECTED: &str = "a whole number from 1 on";
        match settings.number("max_pairs_per_span", 4, EXPECTED)? {
            0 => Err(format!("setting `max_pairs_per_span` is `0`; give {EXPECTED}")),
            pairs_per_span => Ok(Self { pairs_per_span }),
        }
    }
}

/// An answer that someone judged.
struct Answer<'a> {
    span: &'a Span,
    input: String,
    /// What the agent answered.
    original: String,
    standing: Standing,
    /// Of the annotations that decided.
    names: Vec<String>,
}

enum Standing {
    Approved,
    Rejected,
    /// A person wrote what the answer should have been.
    Corrected(String),
}

impl Answer<'_> {
    /// The text to train, unless the answer was rejected.
    fn preferred(&self) -> Option<&str> {
        match &self.standing {
            Standing::Approved => Some(&self.original),
            Standing::Corrected(text) => Some(text),
            Standing::Rejected => None,
        }
    }
}

pub(crate) fn extract(config: &ExtractionConfig, settings: &Settings, spans: &[Span]) -> Result<Extraction, String> {
    let judge = Judge::new(config.verdicts.clone(), settings.text("output_key"));
    let mut extractor = Extractor {
        instruction: &config.instruction,
        limits: Limits::new(settings)?,
        extraction: Extraction { examples: Vec::new(), skipped: Vec::new() },
    };
    let mut answers = Vec::new();
    for span in spans {
        let answer = match matching::exclusion(config, span) {
            Some(reason) => Err(skipped(span, reason)),
            None => answer(span, settings, &judge),
        };
        match answer {
            Ok(answer) => {
                if judge.repeats(span.annotations.iter(), &answer.original) {
                    extractor.skip_identical(span);
                }
                answers.push(answer);
            }
            Err(skipped) => extractor.extraction.skipped.push(skipped),
        }
    }
    extractor.preferred_answers(&answers);
    extractor.rejected_answers(&answers);
    Ok(extractor.extraction)
}

fn answer<'a>(span: &'a Span, settings: &Settings, judge: &Judge) -> Result<Answer<'a>, Skipped> {
    let (input, original) = (input(span, settings), output(span, settings));
    let (standing, names) = match judge.verdict(span.annotations.iter(), &original) {
        Verdict::Approved { names } => (Standing::Approved, names),
        Verdict::Rejected { names } => (Standing::Rejected, names),
        Verdict::Corrected { output, names } => (Standing::Corrected(output), names),
        Verdict::Missing => return Err(skipped(span, "no verdict")),
        Verdict::Conflicting { approving, rejecting } => {
            let (approving, rejecting) = (approving.join("`, `"), rejecting.join("`, `"));
            let span_id = &span.span_id;
            let warning =
                format!("Skipping conflicting verdicts for span {span_id}: `{approving}` against `{rejecting}`");
            return Err(Skipped { warning: Some(warning), ..skipped(span, "conflicting verdicts") });
        }
    };
    if input.is_empty() {
        return Err(skipped(span, "empty input"));
    }
    if original.is_empty() && !matches!(standing, Standing::Corrected(_)) {
        return Err(skipped(span, "empty output"));
    }
    Ok(Answer { span, input, original, standing, names })
}

struct Extractor<'a> {
    instruction: &'a str,
    limits: Limits,
    extraction: Extraction,
}

impl Extractor<'_> {
    /// An example each; and what a correction replaced is its rejected side.
    fn preferred_answers(&mut self, answers: &[Answer]) {
        for answer in answers {
            let Some(preferred) = answer.preferred() else { continue };
            let lineage = lineage(&[answer.span], answer.names.clone());
            let corrected = matches!(answer.standing, Standing::Corrected(_));
            self.extraction.examples.push(Example::Instruction(InstructionExample {
                instruction: self.instruction.to_string(),
                input: answer.input.clone(),
                output: preferred.to_string(),
                corrected,
                lineage: lineage.clone(),
            }));
            if corrected && !answer.original.is_empty() {
                self.pair(&answer.input, preferred, &answer.original, lineage);
            }
        }
    }

    /// A pair with each different preferred answer to the same input.
    fn rejected_answers(&mut self, answers: &[Answer]) {
        let mut preferred: HashMap<&str, Vec<(&str, &Answer)>> = HashMap::new();
        for answer in answers {
            let Some(text) = answer.preferred() else { continue };
            let of_input = preferred.entry(&answer.input).or_default();
            if !of_input.iter().any(|(known, _)| *known == text) {
                of_input.push((text, answer));
            }
        }
        for answer in answers.iter().filter(|answer| answer.preferred().is_none()) {
            let counterparts = preferred.get(answer.input.as_str()).map(Vec::as_slice).unwrap_or_default();
            self.rejected_answer(answer, counterparts);
        }
    }

    /// The rejected span leads its pairs: the preferred ones lead their own examples.
    fn rejected_answer(&mut self, rejected: &Answer, counterparts: &[(&str, &Answer)]) {
        let (identical, different): (Vec<_>, Vec<_>) =
            counterparts.iter().partition(|(text, _)| *text == rejected.original);
        if counterparts.is_empty() {
            self.extraction.skipped.push(skipped(rejected.span, "rejected without a preferred answer"));
        }
        if !identical.is_empty() {
            self.skip_identical(rejected.span);
        }
        if different.len() > self.limits.pairs_per_span {
            self.extraction.skipped.push(skipped(rejected.span, "more pairs than max_pairs_per_span"));
        }
        for (chosen, preferred) in different.into_iter().take(self.limits.pairs_per_span) {
            let mut names = rejected.names.clone();
            names.extend(preferred.names.iter().filter(|name| !rejected.names.contains(name)).cloned());
            let lineage = lineage(&[rejected.span, preferred.span], names);
            self.pair(&rejected.input, chosen, &rejected.original, lineage);
        }
    }

    fn pair(&mut self, input: &str, chosen: &str, rejected: &str, lineage: Lineage) {
        self.extraction.examples.push(Example::Preference(PreferencePair {
            instruction: self.instruction.to_string(),
            input: input.to_string(),
            chosen: chosen.to_string(),
            rejected: rejected.to_string(),
            lineage,
        }));
    }

    fn skip_identical(&mut self, span: &Span) {
        let warning = format!("Skipping identical pair for span {}", span.span_id);
        let identical = Skipped { warning: Some(warning), ..skipped(span, "identical chosen and rejected") };
        self.extraction.skipped.push(identical);
    }
}

/// A span left out for an ordinary reason.
pub(crate) fn skipped(span: &Span, reason: &str) -> Skipped {
    Skipped { span_id: span.span_id.clone(), reason: reason.to_string(), warning: None }
}
