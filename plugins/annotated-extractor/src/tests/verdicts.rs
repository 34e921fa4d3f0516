use crate::extraction::{ExtractionConfig, ScoreRule};
use crate::fixtures::{
    at, by, config, correcting, extract, instructions, label, named, pairs, reasons, scored, span, texts,
};
use crate::types::{Annotation, AnnotatorKind, Attribute, AttributeValue};

/// `approved`, `corrected`, or the reason why not, of one span that answered `general_agent`.
fn outcome_under(config: ExtractionConfig, annotations: Vec<Annotation>) -> String {
    let extraction = extract(config, vec![span("s", "q", "general_agent", annotations)]);
    match (&instructions(&extraction)[..], &reasons(&extraction)[..]) {
        ([example], []) if example.corrected => "corrected".into(),
        ([example], []) => {
            assert_eq!(example.output, "general_agent");
            "approved".into()
        }
        ([], [("s", reason)]) => reason.to_string(),
        other => panic!("unexpected: {other:?}"),
    }
}

fn outcome(annotations: Vec<Annotation>) -> String {
    outcome_under(config(), annotations)
}

const REJECTED: &str = "rejected without a preferred answer";

#[test]
fn score_alone_is_not_approval() {
    assert_eq!(outcome(vec![scored(1.0)]), "no verdict");
    assert_eq!(outcome(vec![Annotation { score: Some(1.0), ..label("wrong_routing") }]), "no verdict");
}

#[test]
fn score_counts_where_a_rule_names_the_annotation() {
    let rule = |name: &str| {
        let mut config = config();
        config.verdicts.annotation_names = texts(&["approval"]);
        config.verdicts.score_rules =
            vec![ScoreRule { annotation_name: name.into(), approve_at_least: Some(0.8), reject_below: Some(0.3) }];
        config
    };
    let quality = |score| vec![named("quality", scored(score))];
    assert_eq!(outcome_under(rule("quality"), quality(0.8)), "approved");
    assert_eq!(outcome_under(rule("quality"), quality(0.79)), "no verdict");
    assert_eq!(outcome_under(rule("quality"), quality(0.3)), "no verdict");
    assert_eq!(outcome_under(rule("quality"), quality(0.29)), REJECTED);
    assert_eq!(outcome_under(rule("quality"), quality(f64::NAN)), "no verdict");
    assert_eq!(outcome_under(rule("other"), quality(1.0)), "no verdict");
}

#[test]
fn score_rule_does_not_overrule_a_label() {
    let mut config = config();
    let approve_at_least = Some(0.5);
    config.verdicts.score_rules =
        vec![ScoreRule { annotation_name: "approval".into(), approve_at_least, reject_below: None }];
    let outcome =
        |text: &str| outcome_under(config.clone(), vec![Annotation { label: Some(text.into()), ..scored(1.0) }]);
    assert_eq!(outcome("wrong_routing"), "no verdict");
    assert_eq!(outcome("rejected"), REJECTED);
    assert_eq!(outcome("  "), "approved");
}

#[test]
fn labels_are_compared_without_case_and_white_space() {
    assert_eq!(outcome(vec![label(" APPROVED\n")]), "approved");
    assert_eq!(outcome(vec![label("correct")]), "approved");
    assert_eq!(outcome(vec![label("👍")]), "approved");
    assert_eq!(outcome(vec![label("approved by nobody")]), "no verdict");
}

#[test]
fn only_configured_annotator_kinds_count() {
    assert_eq!(outcome(vec![by(AnnotatorKind::Llm, label("approved"))]), "no verdict");
    // Newer, of the same name, and still without weight.
    let by_llm = at(9, by(AnnotatorKind::Llm, label("rejected")));
    assert_eq!(outcome(vec![label("approved"), by_llm]), "approved");
}

#[test]
fn only_configured_annotation_names_count() {
    let mut config = config();
    config.verdicts.annotation_names = texts(&["routing_approval"]);
    assert_eq!(outcome_under(config.clone(), vec![named("tone", label("approved"))]), "no verdict");
    assert_eq!(outcome_under(config.clone(), vec![named("tone", correcting("x", label("")))]), "no verdict");
    assert_eq!(outcome_under(config, vec![named("routing_approval", label("approved"))]), "approved");
}

#[test]
fn newest_annotation_of_a_name_wins() {
    let reviewer = |who: &str, annotation| Annotation { identifier: who.into(), ..annotation };
    let rejected = at(1, reviewer("ann", label("rejected")));
    let approved = at(2, reviewer("bob", label("approved")));
    assert_eq!(outcome(vec![rejected.clone(), approved.clone()]), "approved");
    assert_eq!(outcome(vec![approved, rejected]), "approved");
    assert_eq!(outcome(vec![at(2, label("rejected")), at(1, label("approved"))]), REJECTED);
    // Taken back, without another verdict.
    assert_eq!(outcome(vec![at(1, label("approved")), at(2, label("unsure"))]), "no verdict");
}

#[test]
fn equal_update_times_fall_back_to_creation_and_then_to_order() {
    let created = |created_at_ns, annotation| Annotation { created_at_ns, ..at(5, annotation) };
    assert_eq!(outcome(vec![created(2, label("approved")), created(1, label("rejected"))]), "approved");
    assert_eq!(outcome(vec![at(5, label("rejected")), at(5, label("approved"))]), "approved");
    assert_eq!(outcome(vec![at(5, label("approved")), at(5, label("rejected"))]), REJECTED);
}

#[test]
fn verdicts_of_different_names_that_conflict_are_left_out_and_counted() {
    let annotations = vec![named("routing", label("approved")), at(9, named("tone", label("rejected")))];
    let extraction = extract(config(), vec![span("s1", "q", "a", annotations)]);
    assert!(extraction.examples.is_empty());
    assert_eq!(reasons(&extraction), [("s1", "conflicting verdicts")]);
    let warning = extraction.skipped[0].warning.as_deref();
    assert_eq!(warning, Some("Skipping conflicting verdicts for span s1: `routing` against `tone`"));
}

#[test]
fn verdicts_of_different_names_that_agree_count_once() {
    let annotations = vec![named("routing", label("approved")), named("tone", label("correct"))];
    let extraction = extract(config(), vec![span("s1", "q", "a", annotations)]);
    let [example] = instructions(&extraction)[..] else { panic!("{extraction:?}") };
    let mut names = example.lineage.annotation_names.clone();
    names.sort();
    assert_eq!(names, ["routing", "tone"]);
}

#[test]
fn annotator_kinds_that_disagree_follow_the_configured_order() {
    let annotations =
        || vec![named("eval", at(9, by(AnnotatorKind::Llm, label("rejected")))), named("review", label("approved"))];
    let mut config = config();
    config.verdicts.annotator_kinds = vec![AnnotatorKind::Human, AnnotatorKind::Llm];
    assert_eq!(outcome_under(config.clone(), annotations()), "approved");
    config.verdicts.annotator_kinds.reverse();
    assert_eq!(outcome_under(config, annotations()), REJECTED);
}

#[test]
fn a_note_is_no_verdict_even_where_every_name_counts() {
    let mut config = config();
    config.verdicts.annotation_names.clear();
    config.verdicts.explanation_correction_labels = texts(&["approved"]);
    let note = Annotation { label: None, explanation: Some("approved".into()), ..label("") };
    assert_eq!(outcome_under(config, vec![named("note", note)]), "no verdict");
}

#[test]
fn correction_is_the_output_and_makes_a_pair() {
    let annotations = vec![correcting(" weather_agent ", label("rejected"))];
    let extraction = extract(config(), vec![span("s1", "q", "general_agent", annotations)]);
    let [example] = instructions(&extraction)[..] else { panic!("{extraction:?}") };
    assert_eq!((example.output.as_str(), example.corrected), ("weather_agent", true));
    assert_eq!(example.instruction, "Route the following query to the appropriate agent");
    let [pair] = pairs(&extraction)[..] else { panic!("{extraction:?}") };
    assert_eq!((pair.chosen.as_str(), pair.rejected.as_str()), ("weather_agent", "general_agent"));
    assert_eq!(pair.lineage.span_ids, ["s1"]);
    assert_eq!(pair.lineage.annotation_names, ["approval"]);
    assert!(extraction.skipped.is_empty());
}

#[test]
fn explanation_is_a_correction_only_under_its_labels() {
    let explained = |text: &str| Annotation { explanation: Some("weather_agent".into()), ..label(text) };
    assert_eq!(outcome(vec![explained("Corrected")]), "corrected");
    assert_eq!(outcome(vec![explained("approved")]), "approved");
    assert_eq!(outcome(vec![Annotation { explanation: Some(" ".into()), ..label("corrected") }]), "no verdict");
}

#[test]
fn first_correction_key_wins_and_a_blank_one_is_none() {
    let keys = |first: &str, second: &str| {
        let metadata = vec![
            crate::fixtures::attribute("correction", second),
            crate::fixtures::attribute("corrected_output", first),
        ];
        let extraction =
            extract(config(), vec![span("s", "q", "original", vec![Annotation { metadata, ..label("rejected") }])]);
        instructions(&extraction)[0].output.clone()
    };
    assert_eq!(keys("one", "two"), "one");
    assert_eq!(keys(" ", "two"), "two");
}

#[test]
fn a_list_is_a_correction_as_json() {
    let lists = [
        (AttributeValue::Texts(vec!["Paris".into(), "\"x\"".into()]), r#"["Paris","\"x\""]"#),
        (AttributeValue::Integers(vec![1, 2]), "[1,2]"),
        (AttributeValue::Numbers(vec![0.5]), "[0.5]"),
        (AttributeValue::Booleans(vec![true]), "[true]"),
    ];
    for (value, expected) in lists {
        let metadata = vec![Attribute { key: "correction".into(), value }];
        let extraction =
            extract(config(), vec![span("s", "q", "original", vec![Annotation { metadata, ..label("rejected") }])]);
        assert_eq!(instructions(&extraction)[0].output, expected);
        assert_eq!(pairs(&extraction)[0].chosen, expected);
    }
}

#[test]
fn newest_correction_wins() {
    let older = named("first", at(1, correcting("old", label(""))));
    let newer = named("second", at(2, correcting("new", label(""))));
    let output = |annotations| {
        let extraction = extract(config(), vec![span("s", "q", "original", annotations)]);
        instructions(&extraction)[0].output.clone()
    };
    assert_eq!(output(vec![older.clone(), newer.clone()]), "new");
    assert_eq!(output(vec![newer, older]), "new");
}

#[test]
fn correction_replaces_an_empty_output_without_a_pair() {
    let extraction = extract(config(), vec![span("s", "q", "", vec![correcting("weather_agent", label("rejected"))])]);
    assert_eq!(instructions(&extraction)[0].output, "weather_agent");
    assert!(pairs(&extraction).is_empty() && extraction.skipped.is_empty());
}

#[test]
fn identical_correction_is_approval_and_its_pair_is_skipped_with_a_warning() {
    let corrected = Annotation { explanation: Some("general_agent".into()), ..label("corrected") };
    let extraction = extract(config(), vec![span("s1", "q", " general_agent", vec![corrected])]);
    let [example] = instructions(&extraction)[..] else { panic!("{extraction:?}") };
    assert_eq!((example.output.as_str(), example.corrected), ("general_agent", false));
    assert!(pairs(&extraction).is_empty());
    assert_eq!(reasons(&extraction), [("s1", "identical chosen and rejected")]);
    assert_eq!(extraction.skipped[0].warning.as_deref(), Some("Skipping identical pair for span s1"));
}

#[test]
fn identical_correction_under_a_rejection_stays_rejected() {
    let annotations = vec![correcting("general_agent", label("rejected"))];
    let extraction = extract(config(), vec![span("s1", "q", "general_agent", annotations)]);
    assert!(extraction.examples.is_empty());
    assert_eq!(reasons(&extraction), [("s1", "identical chosen and rejected"), ("s1", REJECTED)]);
}
