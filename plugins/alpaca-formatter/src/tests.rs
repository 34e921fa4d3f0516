use formatter_kit::formatting::{PreferenceRecord, TripletRecord};
use formatter_kit::types::{Lineage, PreferencePair, Triplet};

use super::*;

fn lineage() -> Lineage {
    Lineage { span_ids: vec![], trace_id: String::new(), session_id: None, annotation_names: vec![] }
}

fn instruction(input: &str, output: &str) -> Example {
    let (instruction, input, output) = ("Route the query".into(), input.into(), output.into());
    Example::Instruction(InstructionExample { instruction, input, output, corrected: false, lineage: lineage() })
}

fn format(settings: &[(&str, &str)], examples: Vec<Example>) -> Result<Vec<Formatted>, PluginError> {
    let settings = settings.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    AlpacaFormatter::format(FormatterConfig { agent_type: "routing".into(), settings }, examples)
}

fn text(text: &str, response_start: u32) -> Formatted {
    Formatted::Ready(TrainingRecord::Text(TextRecord { text: text.into(), response_start: Some(response_start) }))
}

#[test]
fn text_is_the_reference_format() {
    let formatted = format(&[], vec![instruction("What's weather?", "weather_agent")]).unwrap();
    let expected = "### Instruction:\nRoute the query\n### Input:\nWhat's weather?\n### Response:\nweather_agent";
    assert_eq!(formatted, [text(expected, (expected.len() - "weather_agent".len()) as u32)]);
}

#[test]
fn empty_input_has_no_input_section() {
    let formatted = format(&[], vec![instruction("", "weather_agent")]).unwrap();
    assert_eq!(formatted, [text("### Instruction:\nRoute the query\n### Response:\nweather_agent", 47)]);
}

#[test]
fn response_starts_at_a_byte_offset_not_a_character_count() {
    let Ok([Formatted::Ready(TrainingRecord::Text(record))]) =
        format(&[], vec![instruction("¿Qué tiempo hará mañana?", "agente_météo")])
            .map(|all| <[_; 1]>::try_from(all).unwrap())
    else {
        panic!("one text record");
    };
    assert_eq!(&record.text[record.response_start.unwrap() as usize..], "agente_météo");
}

#[test]
fn preference_pair_shares_the_prompt() {
    let pair = PreferencePair {
        instruction: "Route the query".into(),
        input: "What's weather?".into(),
        chosen: "weather_agent".into(),
        rejected: "general_agent".into(),
        lineage: lineage(),
    };
    let expected = PreferenceRecord {
        prompt: "### Instruction:\nRoute the query\n### Input:\nWhat's weather?\n### Response:\n".into(),
        chosen: "weather_agent".into(),
        rejected: "general_agent".into(),
    };
    let formatted = format(&[], vec![Example::Preference(pair)]).unwrap();
    assert_eq!(formatted, [Formatted::Ready(TrainingRecord::Preference(expected))]);
}

#[test]
fn triplet_keeps_its_three_texts() {
    let (anchor, positive, negative) = ("cats".to_string(), "about cats".to_string(), "about tax".to_string());
    let triplet =
        Triplet { anchor: anchor.clone(), positive: positive.clone(), negative: negative.clone(), lineage: lineage() };
    let formatted = format(&[], vec![Example::Triplet(triplet)]).unwrap();
    let expected = TripletRecord { anchor, positive, negative };
    assert_eq!(formatted, [Formatted::Ready(TrainingRecord::Triplet(expected))]);
}

#[test]
fn one_result_per_example_in_order_and_an_empty_answer_is_left_out() {
    let examples = vec![instruction("a", "1"), instruction("b", " \n"), instruction("c", "3")];
    let formatted = format(&[], examples).unwrap();
    assert_eq!(formatted.len(), 3);
    assert_eq!(formatted[1], Formatted::Skipped("empty output".into()));
    assert!(
        matches!(&formatted[2], Formatted::Ready(TrainingRecord::Text(record)) if record.text.ends_with("c\n### Response:\n3"))
    );
}

#[test]
fn unknown_setting_is_a_configuration_error() {
    let error = format(&[("template", "x")], vec![]).unwrap_err();
    assert_eq!(error, PluginError::Configuration("unknown setting `template`; this plugin has no settings".into()));
}
