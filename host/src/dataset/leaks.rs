use std::collections::HashSet;

use super::split::{Tie, ties};
use super::{DatasetError, Origins};
use crate::plugins::bindings::types::Example;

/// Checks that no held-out example shares its input, a trace or a session with a training example: the gate would
/// measure memory. A check of its own, after everything that could have mixed the two sides.
///
/// # Errors
/// [`DatasetError::Leak`], with the first that is shared.
pub fn check_leaks(train: &[Example], held_out: &[Example], origins: &Origins) -> Result<(), DatasetError> {
    let trained: HashSet<Tie> = train.iter().flat_map(|example| ties(example, origins)).collect();
    let leak = held_out.iter().flat_map(|example| ties(example, origins)).find(|tie| trained.contains(tie));
    leak.map_or(Ok(()), |(what, value)| Err(DatasetError::Leak { what, value }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::origins::tests::span;
    use crate::dataset::testing::instruction;

    #[test]
    fn a_held_out_input_in_training_is_a_leak() {
        let error =
            check_leaks(&[instruction("s1", "rain?", "a")], &[instruction("s2", " rain? ", "b")], &Origins::default());
        assert_eq!(
            error.unwrap_err().to_string(),
            "the input `rain?` of a held-out example is also in the training data"
        );
    }

    #[test]
    fn a_held_out_trace_or_session_in_training_is_a_leak() {
        let (train, held_out) = ([instruction("s1", "a", "x")], [instruction("s2", "b", "x")]);
        let check = |spans: &[crate::plugins::bindings::types::Span]| {
            let mut origins = Origins::default();
            origins.note(spans, &train);
            origins.note(spans, &held_out);
            check_leaks(&train, &held_out, &origins)
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
