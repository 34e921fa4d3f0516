use crate::fixtures::{attribute, config, extract, label, reasons, span};
use crate::types::{MatchRule, Span, SpanStatus};

fn named(name: &str) -> Span {
    Span { name: name.into(), ..span("s", "q", "a", vec![label("approved")]) }
}

fn matches(rule: MatchRule, span: Span) -> bool {
    let mut config = config();
    config.match_rules = vec![rule];
    match &reasons(&extract(config, vec![span]))[..] {
        [] => true,
        [("s", "other agent type")] => false,
        other => panic!("unexpected: {other:?}"),
    }
}

#[test]
fn agent_type_is_not_matched_by_substring() {
    let rule = || MatchRule::NameSuffix("extraction".into());
    assert!(!matches(rule(), named("extraction_benchmark")));
    assert!(!matches(rule(), named("agent.extraction.cache")));
    assert!(!matches(rule(), named("entity_extraction")));
    assert!(!matches(rule(), named("agent.entity-extraction")));
}

#[test]
fn name_suffix_matches_at_a_boundary_or_the_start() {
    let rule = || MatchRule::NameSuffix("route".into());
    assert!(matches(rule(), named("route")));
    assert!(matches(rule(), named("agent.route")));
    assert!(matches(rule(), named("api/v1/route")));
    assert!(!matches(rule(), named("enroute")));
    assert!(!matches(rule(), named("agent.Route")));
    assert!(matches(MatchRule::NameSuffix(".route".into()), named("agent.route")));
}

#[test]
fn name_exact_matches_the_whole_name() {
    let rule = || MatchRule::NameExact("agent.route".into());
    assert!(matches(rule(), named("agent.route")));
    assert!(!matches(rule(), named("my.agent.route")));
}

#[test]
fn attribute_equals_wants_exactly_the_value() {
    let rule = || MatchRule::AttributeEquals(("agent.type".into(), "routing".into()));
    let with = |value| {
        let mut span = named("anything");
        span.attributes.push(attribute("agent.type", value));
        span
    };
    assert!(matches(rule(), with("routing")));
    assert!(!matches(rule(), with("routing_eval")));
    assert!(!matches(rule(), named("anything")));
}

#[test]
fn any_rule_is_enough() {
    let mut config = config();
    config.match_rules = vec![MatchRule::NameExact("a".into()), MatchRule::NameExact("b".into())];
    let extraction = extract(config, vec![Span { span_id: "b".into(), ..named("b") }, named("c")]);
    assert_eq!(reasons(&extraction), [("s", "other agent type")]);
}

#[test]
fn own_training_spans_are_never_data() {
    for key in ["tunesmith.run", "tunesmith.run.id"] {
        let mut span = named("agent.route");
        span.attributes.push(attribute(key, "r1"));
        let extraction = extract(config(), vec![span]);
        assert_eq!(reasons(&extraction), [("s", "own span")]);
        assert!(extraction.examples.is_empty());
    }
    let mut span = named("agent.route");
    span.attributes.push(attribute("tunesmith.runner", "r1"));
    assert!(reasons(&extract(config(), vec![span])).is_empty());
}

#[test]
fn failed_span_is_skipped() {
    let failed = Span { status: SpanStatus::Error, ..named("agent.route") };
    assert_eq!(reasons(&extract(config(), vec![failed])), [("s", "span failed")]);
}
