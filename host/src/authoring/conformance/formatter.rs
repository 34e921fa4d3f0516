//! What every formatter must do.

use super::super::compare::first_difference;
use super::super::samples::{self, Settings};
use super::super::subject::json;
use super::{Outcome, is_own, outcome, text};
use crate::dataset;
use crate::plugins::bindings::formatting::{Formatted, FormatterConfig, TrainingRecord};
use crate::plugins::bindings::types::{Example, TrainingMethod};
use crate::plugins::{Formatter, PluginError};

type Format<'a> = &'a dyn Fn(&FormatterConfig, &[Example]) -> Result<Vec<Formatted>, PluginError>;

pub(super) fn checks(format: Format, agent_type: &str, settings: &Settings) -> Vec<Outcome> {
    let config = FormatterConfig { agent_type: agent_type.to_owned(), settings: settings.to_vec() };
    let format = &|examples: &[Example]| format(&config, examples);
    let examples = [samples::plain_examples(), samples::hard_examples()].concat();
    let alone = each_alone(format, &examples);
    let (good, expected): (Vec<_>, Vec<_>) =
        alone.as_ref().map(|alone| alone.iter().cloned().unzip()).unwrap_or_default();
    let reversed = |items: &[_]| items.iter().rev().cloned().collect::<Vec<_>>();
    vec![
        outcome("an empty list gives an empty list", format(&[]).map(|_| ()).map_err(text)),
        outcome("records of ordinary examples are fit to train", fit_to_train(format)),
        outcome(
            "each kind and text is formatted, left out, or refused with an error of the plugin's own",
            alone.map(|_| ()),
        ),
        outcome("one result for each example, in order: together as alone", same(format, &good, &expected)),
        outcome("in reverse, the same results in reverse", {
            let expected = expected.iter().rev().cloned().collect::<Vec<_>>();
            same(format, &reversed(&good), &expected)
        }),
        outcome("the same call twice gives the same", twice(format, &good)),
        outcome("a full batch is formatted", full_batch(format, &good)),
        outcome(
            "a megabyte of text is formatted, left out, or refused with an error of the plugin's own",
            long(format),
        ),
    ]
}

type FormatExamples<'a> = &'a dyn Fn(&[Example]) -> Result<Vec<Formatted>, PluginError>;

/// The examples that the plugin takes, each with its result.
fn each_alone(format: FormatExamples, examples: &[Example]) -> Result<Vec<(Example, Formatted)>, String> {
    let mut good = Vec::new();
    let mut refusal = None;
    for example in examples {
        match format(std::slice::from_ref(example)) {
            Ok(results) => good.extend(results.into_iter().map(|result| (example.clone(), result))),
            Err(error) if is_own(&error) => refusal = refusal.or(Some(error)),
            Err(error) => return Err(format!("{error} (the example: {})", shortened(example))),
        }
    }
    match refusal {
        Some(error) if good.is_empty() => Err(format!("every example was refused: {error}")),
        _ => Ok(good),
    }
}

fn fit_to_train(format: FormatExamples) -> Result<(), String> {
    let mut refusal = None;
    let mut ready = 0;
    for example in samples::plain_examples() {
        let results = match format(std::slice::from_ref(&example)) {
            Err(error) if is_own(&error) => {
                refusal = refusal.or(Some(error.to_string()));
                continue;
            }
            results => results.map_err(text)?,
        };
        for result in results {
            match result {
                Formatted::Ready(record) => {
                    dataset::validate(std::slice::from_ref(&record), method(&record))
                        .map_err(|error| error.to_string())?;
                    ready += 1;
                }
                Formatted::Skipped(reason) => refusal = refusal.or(Some(format!("left out: {reason}"))),
            }
        }
    }
    match refusal {
        Some(why) if ready == 0 => Err(format!("no ordinary example of any kind became a record: {why}")),
        _ => Ok(()),
    }
}

fn method(record: &TrainingRecord) -> TrainingMethod {
    match record {
        TrainingRecord::Text(_) | TrainingRecord::PromptCompletion(_) | TrainingRecord::Chat(_) => TrainingMethod::Sft,
        TrainingRecord::Preference(_) | TrainingRecord::ChatPreference(_) => TrainingMethod::Dpo,
        TrainingRecord::Triplet(_) => TrainingMethod::Triplet,
    }
}

fn same(format: FormatExamples, examples: &[Example], expected: &[Formatted]) -> Result<(), String> {
    let results = format(examples).map_err(text)?;
    first_difference(&json(&expected), &json(&results)).map_or(Ok(()), |difference| Err(format!("result {difference}")))
}

fn twice(format: FormatExamples, examples: &[Example]) -> Result<(), String> {
    let first = format(examples).map_err(text)?;
    same(format, examples, &first)
}

fn full_batch(format: FormatExamples, good: &[Example]) -> Result<(), String> {
    let batch: Vec<_> = good.iter().cycle().take(Formatter::MAX_BATCH).cloned().collect();
    format(&batch).map(|_| ()).map_err(text)
}

fn long(format: FormatExamples) -> Result<(), String> {
    let example = samples::instruction(0, &"ä".repeat(1 << 19), "weather_agent");
    match format(&[example]) {
        Err(error) if !is_own(&error) => Err(text(error)),
        _ => Ok(()),
    }
}

fn shortened(example: &Example) -> String {
    json(example).to_string().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::HARD_TEXTS;
    use super::*;
    use crate::plugins::bindings::formatting::TripletRecord;

    fn echo(example: &Example) -> Formatted {
        let anchor = json(example).to_string();
        let (positive, negative) = ("p".into(), "n".into());
        Formatted::Ready(TrainingRecord::Triplet(TripletRecord { anchor, positive, negative }))
    }

    fn failures(format: Format) -> Vec<&'static str> {
        let outcomes = checks(format, "routing", &[]);
        outcomes.iter().filter(|outcome| outcome.failure.is_some()).map(|outcome| outcome.check).collect()
    }

    #[test]
    fn a_formatter_that_keeps_the_contract_passes() {
        assert_eq!(failures(&|_, examples| Ok(examples.iter().map(echo).collect())), [""; 0]);
    }

    #[test]
    fn a_formatter_whose_results_depend_on_their_neighbours_is_caught() {
        let numbered = |_: &FormatterConfig, examples: &[Example]| {
            Ok((0..examples.len()).map(|index| Formatted::Skipped(index.to_string())).collect())
        };
        let found = failures(&numbered);
        assert!(found.contains(&"one result for each example, in order: together as alone"), "{found:?}");
        assert!(found.contains(&"records of ordinary examples are fit to train"), "{found:?}");
    }

    #[test]
    fn a_formatter_that_changes_its_mind_is_caught() {
        let calls = std::cell::Cell::new(0);
        let counting = |_: &FormatterConfig, examples: &[Example]| {
            calls.set(calls.get() + 1);
            Ok(examples.iter().map(|_| Formatted::Skipped(calls.get().to_string())).collect())
        };
        assert!(failures(&counting).contains(&"the same call twice gives the same"));
    }

    #[test]
    fn hard_texts_are_in_every_place() {
        let examples = samples::hard_examples();
        assert_eq!(examples.len(), 8 * HARD_TEXTS.len());
        assert!(examples.len() + 3 <= Formatter::MAX_BATCH);
    }
}
