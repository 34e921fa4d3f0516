use formatter_kit::formatting::PreferenceRecord;
use formatter_kit::types::{Lineage, PreferencePair};

use super::*;

const PROMPT: &str = "### Instruction:\nRoute the query\n### Input:\nWhat's weather?\n### Response:\n";

fn lineage() -> Lineage {
    Lineage { span_ids: vec![], trace_id: String::new(), session_id: None, annotation_names: vec![] }
}

fn config(settings: Vec<(String, String)>) -> FormatterConfig {
    FormatterConfig { agent_type: "routing".into(), settings }
}

#[test]
fn prompt_ends_where_the_completion_starts() {
    let example = InstructionExample {
        instruction: "Route the query".into(),
        input: "What's weather?".into(),
        output: "weather_agent".into(),
        corrected: true,
        lineage: lineage(),
    };
    let formatted = PromptCompletionFormatter::format(config(vec![]), vec![Example::Instruction(example)]).unwrap();
    let expected = PromptCompletion { prompt: PROMPT.into(), completion: "weather_agent".into() };
    assert_eq!(formatted, [Formatted::Ready(TrainingRecord::PromptCompletion(expected))]);
}

#[test]
fn preference_pair_has_the_same_prompt() {
    let (chosen, rejected) = ("weather_agent".to_string(), "general_agent".to_string());
    let pair = PreferencePair {
        instruction: "Route the query".into(),
        input: "What's weather?".into(),
        chosen: chosen.clone(),
        rejected: rejected.clone(),
        lineage: lineage(),
    };
    let formatted = PromptCompletionFormatter::format(config(vec![]), vec![Example::Preference(pair)]).unwrap();
    let expected = PreferenceRecord { prompt: PROMPT.into(), chosen, rejected };
    assert_eq!(formatted, [Formatted::Ready(TrainingRecord::Preference(expected))]);
}

#[test]
fn unknown_setting_is_a_configuration_error() {
    let error = PromptCompletionFormatter::format(config(vec![("eos".into(), "x".into())]), vec![]).unwrap_err();
    assert_eq!(error, PluginError::Configuration("unknown setting `eos`; this plugin has no settings".into()));
}
