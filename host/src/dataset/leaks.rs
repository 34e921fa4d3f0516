use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};

use super::split::{NEAR_DUPLICATE, Tie, ties};
use super::{DatasetError, Origins, input, lineage, near_duplicates, normalised};
use crate::plugins::bindings::types::Example;

/// Checks that no held-out example shares its input, a trace or a session with a training example, or has an input that
/// overlaps with one by `near_duplicates`, where it is given: the gate would measure memory. A check of its own, after everything that could have mixed the two sides.
///
/// # Errors
/// [`DatasetError::Leak`], with the first that is shared.
pub fn check_leaks<E: Borrow<Example>>(
    train: &[E],
    held_out: &[E],
    origins: &Origins,
    near_duplicates: Option<f64>,
) -> Result<(), DatasetError> {
    let trained: HashSet<Tie> = train.iter().flat_map(|example| ties(example.borrow(), origins)).collect();
    let leak = held_out.iter().flat_map(|example| ties(example.borrow(), origins)).find(|tie| trained.contains(tie));
    let near = || {
        let leaked = near_duplicates::held_out_near(train, held_out, near_duplicates?).next()?;
        Some((NEAR_DUPLICATE, normalised(input(held_out[leaked].borrow()))))
    };
    leak.or_else(near).map_or(Ok(()), |(what, value)| Err(DatasetError::Leak { what, value }))
}

/// Checks that no prompt that the formatter wrote for a held-out example is also one of training: it may write
/// different inputs alike. Prompts come with the examples that they are of.
///
/// # Errors
/// [`DatasetError::PromptLeak`], with the first that is shared.
pub fn check_prompts<'a>(
    train: impl Iterator<Item = (&'a str, &'a Example)>,
    held_out: impl Iterator<Item = (&'a str, &'a Example)>,
) -> Result<(), DatasetError> {
    let trained: HashMap<String, &Example> = train.map(|(prompt, example)| (normalised(prompt), example)).collect();
    for (prompt, example) in held_out {
        if let Some(trained) = trained.get(&normalised(prompt)) {
            let spans = |example| lineage(example).span_ids.join("`, `");
            return Err(DatasetError::PromptLeak { held_out: spans(example), trained: spans(trained) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::origins::tests::span;
    use crate::dataset::testing::instruction;

    #[test]
    fn a_held_out_input_in_training_is_a_leak() {
        let error = check_leaks(
            &[instruction("s1", "rain?", "a")],
            &[instruction("s2", " rain? ", "b")],
            &Origins::default(),
            None,
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "the input `rain?` of a held-out example is also in the training data"
        );
    }

    #[test]
    fn a_prompt_that_two_inputs_share_is_a_leak() {
        let (train, held_out) = (instruction("s1", "a", "x"), instruction("s2", "b", "x"));
        let check = |prompt| check_prompts([("Route: a", &train)].into_iter(), [(prompt, &held_out)].into_iter());
        assert_eq!(check("Route: b"), Ok(()));
        assert_eq!(
            check(" Route:  a ").unwrap_err().to_string(),
            "the formatter wrote one prompt for a held-out example (span `s2`) and a training example (span `s1`), so that \
             the comparison with the base would be of what was learnt by heart: let it write different inputs differently"
        );
    }

    #[test]
    fn a_held_out_trace_or_session_in_training_is_a_leak() {
        let (train, held_out) = ([instruction("s1", "a", "x")], [instruction("s2", "b", "x")]);
        let check = |spans: &[crate::plugins::bindings::types::Span]| {
            let mut origins = Origins::default();
            origins.note(spans, &train);
            origins.note(spans, &held_out);
            check_leaks(&train, &held_out, &origins, None)
        };
        assert_eq!(check(&[span("s1", "t1", Some("u"), 0), span("s2", "t2", Some("v"), 0)]), Ok(()));
        assert_eq!(
            check(&[span("s1", "t", None, 0), span("s2", "t", None, 0)]),
            Err(DatasetError::Leak { what: "trace", value: "t".to_owned() })
        );
        assert_eq!(
            check(&[span("s1", "t1", Some("u"), 0), span("s2", "t2", Some("u"), 0)]),
            Err(DatasetError::Leak { what: "session", value: "u".to_owned() })
        );
    }
}
