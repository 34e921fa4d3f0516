use crate::fixtures::{
    attribute, config, correcting, extract, instructions, label, pairs, reasons, span, with_settings,
};
use crate::types::{Attribute, AttributeValue, Span};

fn approved(id: &str, input: &str, output: &str) -> Span {
    span(id, input, output, vec![label("approved")])
}

fn rejected(id: &str, input: &str, output: &str) -> Span {
    span(id, input, output, vec![label("rejected")])
}

/// Chosen, rejected and span ids.
fn pair_texts(spans: Vec<Span>) -> Vec<(String, String, Vec<String>)> {
    let extraction = extract(config(), spans);
    let text = |pair: &&crate::types::PreferencePair| {
        (pair.chosen.clone(), pair.rejected.clone(), pair.lineage.span_ids.clone())
    };
    pairs(&extraction).iter().map(text).collect()
}

fn ids(ids: &[&str]) -> Vec<String> {
    crate::fixtures::texts(ids)
}

#[test]
fn approved_span_is_an_example_with_its_lineage() {
    let mut span = approved("s1", " What's the weather? ", "weather_agent\n");
    span.attributes.push(attribute("session.id", "u7"));
    let extraction = extract(config(), vec![span]);
    let [example] = instructions(&extraction)[..] else { panic!("{extraction:?}") };
    assert_eq!(example.input, "What's the weather?");
    assert_eq!(example.output, "weather_agent");
    assert!(!example.corrected);
    assert_eq!(example.lineage.span_ids, ["s1"]);
    assert_eq!(example.lineage.trace_id, "t-s1");
    assert_eq!(example.lineage.session_id.as_deref(), Some("u7"));
    assert_eq!(example.lineage.annotation_names, ["approval"]);
    assert!(extraction.skipped.is_empty());
}

#[test]
fn each_turn_of_a_session_counts() {
    let turn = |mut span: Span| {
        span.attributes.push(attribute("session.id", "u7"));
        span
    };
    let first = turn(approved("s1", "one", "a"));
    let second = turn(span("s2", "two", "b", vec![]));
    let third = turn(approved("s3", "three", "c"));
    let extraction = extract(config(), vec![first, second, third]);
    let of_session = |example: &&crate::types::InstructionExample| {
        assert_eq!(example.lineage.session_id.as_deref(), Some("u7"));
        example.lineage.span_ids[0].clone()
    };
    assert_eq!(instructions(&extraction).iter().map(of_session).collect::<Vec<_>>(), ["s1", "s3"]);
    assert_eq!(reasons(&extraction), [("s2", "no verdict")]);
}

#[test]
fn approved_and_rejected_answers_to_one_input_are_a_pair() {
    let got = pair_texts(vec![rejected("r", "q", "general_agent"), approved("a", "q ", "weather_agent")]);
    assert_eq!(got, [("weather_agent".into(), "general_agent".into(), ids(&["r", "a"]))]);
}

#[test]
fn answers_to_different_inputs_are_no_pair() {
    let extraction = extract(config(), vec![rejected("r", "q1", "x"), approved("a", "q2", "y")]);
    assert!(pairs(&extraction).is_empty());
    assert_eq!(reasons(&extraction), [("r", "rejected without a preferred answer")]);
}

#[test]
fn correction_is_preferred_to_other_rejected_answers_too() {
    let corrected = span("c", "q", "first", vec![correcting("best", label("rejected"))]);
    let got = pair_texts(vec![corrected, rejected("r", "q", "second")]);
    let own = ("best".into(), "first".into(), ids(&["c"]));
    assert_eq!(got, [own, ("best".into(), "second".into(), ids(&["r", "c"]))]);
}

#[test]
fn equal_approved_answers_pair_once_and_different_ones_each() {
    let spans =
        vec![approved("a1", "q", "x"), approved("a2", "q", "x"), approved("a3", "q", "y"), rejected("r", "q", "z")];
    let pair = |chosen: &str, from: &str| (chosen.into(), "z".into(), ids(&["r", from]));
    assert_eq!(pair_texts(spans), [pair("x", "a1"), pair("y", "a3")]);
}

#[test]
fn identical_chosen_and_rejected_is_skipped_with_a_warning() {
    let extraction = extract(config(), vec![approved("a", "q", "x"), rejected("r", "q", "x ")]);
    assert!(pairs(&extraction).is_empty());
    assert_eq!(reasons(&extraction), [("r", "identical chosen and rejected")]);
    assert_eq!(extraction.skipped[0].warning.as_deref(), Some("Skipping identical pair for span r"));
}

#[test]
fn pairs_per_span_are_limited_and_the_excess_is_counted() {
    let spans = || {
        let mut spans: Vec<Span> = (0..6).map(|i| approved(&format!("a{i}"), "q", &format!("x{i}"))).collect();
        spans.push(rejected("r", "q", "z"));
        spans
    };
    let extraction = extract(config(), spans());
    assert_eq!(pairs(&extraction).len(), 4);
    assert_eq!(reasons(&extraction), [("r", "more pairs than max_pairs_per_span")]);
    let extraction = extract(with_settings(&[("max_pairs_per_span", "6")], config()), spans());
    assert_eq!(pairs(&extraction).len(), 6);
    assert!(extraction.skipped.is_empty());
}

#[test]
fn empty_input_and_empty_output_are_counted() {
    let without_output = Span { attributes: vec![attribute("input.value", "q")], ..approved("s3", "", "") };
    let spans = vec![approved("s1", " ", "x"), approved("s2", "q", "\n"), without_output, rejected("s4", "q", "")];
    let extraction = extract(config(), spans);
    assert!(extraction.examples.is_empty());
    let expected = [("s1", "empty input"), ("s2", "empty output"), ("s3", "empty output"), ("s4", "empty output")];
    assert_eq!(reasons(&extraction), expected);
}

#[test]
fn json_fields_are_read_where_the_keys_are_set() {
    let json = r#"{"query": "What's \u00fcp?", "user": 1}"#;
    let answer = r#"{"chosen_agent": "weather_agent", "confidence": 0.95}"#;
    let keys = with_settings(&[("input_key", "query"), ("output_key", "chosen_agent")], config());
    let read = |config, input: &str, output: &str| {
        let extraction = extract(config, vec![approved("s", input, output)]);
        let example = instructions(&extraction)[0];
        (example.input.clone(), example.output.clone())
    };
    assert_eq!(read(keys.clone(), json, answer), ("What's üp?".into(), "weather_agent".into()));
    assert_eq!(read(config(), json, answer), (json.into(), answer.into()));
    // No object, or none with that key: the raw text.
    assert_eq!(read(keys.clone(), "plain", r#"{"agent": "x"}"#), ("plain".into(), r#"{"agent": "x"}"#.into()));
    assert_eq!(read(keys, r#"["query"]"#, "{\"chosen_agent\": "), (r#"["query"]"#.into(), "{\"chosen_agent\":".into()));
}

#[test]
fn json_field_that_is_no_string_keeps_the_agents_own_json() {
    let keys = with_settings(&[("output_key", "entities")], config());
    let answer = r#"{"entities": [{"b": 1.50, "a": "x"}], "n": 1}"#;
    let extraction = extract(keys.clone(), vec![approved("s", "q", answer)]);
    assert_eq!(instructions(&extraction)[0].output, r#"[{"b": 1.50, "a": "x"}]"#);
    let extraction = extract(keys, vec![approved("s", "q", r#"{"entities": null}"#)]);
    assert_eq!(reasons(&extraction), [("s", "empty output")]);
}

#[test]
fn corrections_are_read_by_the_output_key_too() {
    let keys = with_settings(&[("output_key", "agent")], config());
    let corrected = correcting(r#"{"agent": "weather_agent"}"#, label("rejected"));
    let extraction = extract(keys, vec![span("s", "q", r#"{"agent": "general_agent"}"#, vec![corrected])]);
    let pair = pairs(&extraction)[0];
    assert_eq!((pair.chosen.as_str(), pair.rejected.as_str()), ("weather_agent", "general_agent"));
}

#[test]
fn nested_attributes_are_read_as_json_fields_are() {
    let keys = with_settings(&[("input_key", "query")], config());
    let attributes = vec![attribute("input.value.query", "q"), attribute("output.value", "x")];
    let extraction = extract(keys, vec![Span { attributes, ..approved("s", "", "") }]);
    assert_eq!(instructions(&extraction)[0].input, "q");
}

#[test]
fn scalar_outputs_are_texts_and_lists_are_none() {
    let output = |value| {
        let output = Attribute { key: "output.value".into(), value };
        Span { attributes: vec![attribute("input.value", "q"), output], ..approved("s", "", "") }
    };
    let extraction = extract(config(), vec![output(AttributeValue::Integer(42))]);
    assert_eq!(instructions(&extraction)[0].output, "42");
    let extraction = extract(config(), vec![output(AttributeValue::Number(0.1))]);
    assert_eq!(instructions(&extraction)[0].output, "0.1");
    for value in [AttributeValue::Integers(vec![42]), AttributeValue::Number(f64::NAN)] {
        assert_eq!(reasons(&extract(config(), vec![output(value)])), [("s", "empty output")]);
    }
}
