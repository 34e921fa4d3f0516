use crate::AnnotatedExtractor;
use crate::extraction::{ExtractionConfig, Guest, ScoreRule};
use crate::fixtures::{config, configuration_error, with_settings};
use crate::types::MatchRule;

#[test]
fn selection_is_the_rules_of_the_configuration() {
    assert_eq!(AnnotatedExtractor::selection(config()).unwrap(), config().match_rules);
}

#[test]
fn selection_refuses_what_extraction_refuses() {
    let config = with_settings(&[("strategy", "best")], config());
    assert_eq!(
        AnnotatedExtractor::selection(config.clone()).unwrap_err(),
        AnnotatedExtractor::extract(config, vec![]).unwrap_err()
    );
}

#[test]
fn unknown_setting_is_named_with_the_known_ones() {
    let error = configuration_error(with_settings(&[("inputkey", "query")], config()));
    assert!(
        error.starts_with("unknown setting `inputkey`; known are `input_key`, `output_key`, `max_pairs_per_span`, ")
    );
    assert!(error.ends_with(", `seed`"), "{error}");
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let error = |key, value| configuration_error(with_settings(&[(key, value)], config()));
    assert_eq!(error("max_pairs_per_span", "0"), "setting `max_pairs_per_span` is `0`; give a whole number from 1 on");
    assert_eq!(error("negatives", "few"), "setting `negatives` is `few`; give a whole number from 1 on");
    assert_eq!(error("negatives", "0"), "setting `negatives` is `0`; give a whole number from 1 on");
    assert_eq!(error("seed", "-1"), "setting `seed` is `-1`; give a whole number");
    assert_eq!(error("strategy", "best"), "setting `strategy` is `best`; give `top_k`, `above_threshold` or `random`");
}

#[test]
fn rules_that_match_everything_or_nothing_are_refused() {
    let error = |match_rules| configuration_error(ExtractionConfig { match_rules, ..config() });
    assert_eq!(error(vec![]), "`match_rules` is empty; give at least one span name, name suffix or attribute");
    let empty = "a rule of `match_rules` has an empty name; give the span name, suffix or attribute key";
    assert_eq!(error(vec![MatchRule::NameSuffix(String::new())]), empty);
    assert_eq!(error(vec![MatchRule::AttributeEquals((String::new(), "x".into()))]), empty);
}

#[test]
fn verdict_rules_that_contradict_themselves_are_refused() {
    let mut both = config();
    both.verdicts.rejected_labels.push(" CORRECT".into());
    assert_eq!(
        configuration_error(both),
        "label `correct` is in `approved_labels` and in `rejected_labels`; keep it in one"
    );

    let mut nobody = config();
    nobody.verdicts.annotator_kinds.clear();
    assert_eq!(configuration_error(nobody), "`annotator_kinds` is empty; name whose annotations count, such as HUMAN");

    let mut overlapping = config();
    overlapping.verdicts.score_rules =
        vec![ScoreRule { annotation_name: "q".into(), approve_at_least: Some(0.5), reject_below: Some(0.7) }];
    assert_eq!(
        configuration_error(overlapping),
        "the score rule for `q` both approves and rejects some scores; `reject_below` must not be above `approve_at_least`"
    );
}
