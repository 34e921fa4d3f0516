use formatter_kit::types::{Lineage, PreferencePair};

use super::*;

fn lineage() -> Lineage {
    Lineage { span_ids: vec![], trace_id: String::new(), session_id: None, annotation_names: vec![] }
}

fn format(settings: &[(&str, &str)], example: Example) -> Result<Vec<Formatted>, PluginError> {
    let settings = settings.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    ChatFormatter::format(FormatterConfig { agent_type: "routing".into(), settings }, vec![example])
}

fn instruction(instruction: &str, input: &str) -> Example {
    let (instruction, input, output) = (instruction.into(), input.into(), "weather_agent".into());
    Example::Instruction(InstructionExample { instruction, input, output, corrected: false, lineage: lineage() })
}

fn messages(settings: &[(&str, &str)], example: Example) -> Vec<(ChatRole, String)> {
    match &format(settings, example).unwrap()[..] {
        [Formatted::Ready(TrainingRecord::Chat(messages))] => {
            messages.iter().map(|message| (message.role, message.content.clone())).collect()
        }
        other => panic!("not one chat record: {other:?}"),
    }
}

fn expected(messages: &[(ChatRole, &str)]) -> Vec<(ChatRole, String)> {
    messages.iter().map(|(role, content)| (*role, content.to_string())).collect()
}

#[test]
fn instruction_input_and_output_are_system_user_and_assistant() {
    let got = messages(&[], instruction("Route the query", "What's weather?"));
    let turns = [
        (ChatRole::System, "Route the query"),
        (ChatRole::User, "What's weather?"),
        (ChatRole::Assistant, "weather_agent"),
    ];
    assert_eq!(got, expected(&turns));
}

#[test]
fn system_prompt_setting_replaces_the_instruction() {
    let got = messages(&[("system_prompt", "Be brief.")], instruction("Route the query", "What's weather?"));
    assert_eq!(got[0], (ChatRole::System, "Be brief.".to_string()));
    assert_eq!(got[1], (ChatRole::User, "What's weather?".to_string()));
}

#[test]
fn without_an_input_the_instruction_is_the_user_turn() {
    let turns = [(ChatRole::User, "Say hello"), (ChatRole::Assistant, "weather_agent")];
    assert_eq!(messages(&[], instruction("Say hello", "")), expected(&turns));
    let got = messages(&[("system_prompt", "Be brief.")], instruction("Say hello", ""));
    assert_eq!(got[..2], expected(&[(ChatRole::System, "Be brief."), (ChatRole::User, "Say hello")]));
}

#[test]
fn empty_system_prompt_setting_means_no_system_turn() {
    let turns = [(ChatRole::User, "What's weather?"), (ChatRole::Assistant, "weather_agent")];
    let got = messages(&[("system_prompt", "")], instruction("Route the query", "What's weather?"));
    assert_eq!(got, expected(&turns));
}

/// Two turns of which the first is answered.
const CONVERSATION: &str = r#"[{"role": "user", "content": "What's weather?"},
    {"role": "assistant", "content": "weather_agent"}, {"role": "user", "content": "And tomorrow?"}]"#;

#[test]
fn an_input_that_is_a_conversation_stays_one() {
    let turns = [
        (ChatRole::System, "Route the query"),
        (ChatRole::User, "What's weather?"),
        (ChatRole::Assistant, "weather_agent"),
        (ChatRole::User, "And tomorrow?"),
        (ChatRole::Assistant, "weather_agent"),
    ];
    assert_eq!(messages(&[], instruction("Route the query", CONVERSATION)), expected(&turns));
    let under_messages = format!("{{\"messages\": {CONVERSATION}, \"temperature\": 0}}");
    assert_eq!(messages(&[], instruction("Route the query", &under_messages)), expected(&turns));
}

#[test]
fn a_conversations_own_system_message_stands() {
    let own = r#"[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]"#;
    let got = messages(&[("system_prompt", "Be long.")], instruction("Route the query", own));
    assert_eq!(got[..2], expected(&[(ChatRole::System, "Be brief."), (ChatRole::User, "Hello")]));
}

#[test]
fn json_that_is_no_conversation_is_the_users_message() {
    let others = [
        r#"{"query": "rain?"}"#,
        r#"[{"role": "tool", "content": "x"}]"#,
        r#"[{"role": "user", "content": [1]}]"#,
        r#"[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]"#,
        "[]",
        "[1, 2",
    ];
    for input in others {
        assert_eq!(messages(&[], instruction("Route", input))[1], (ChatRole::User, input.to_string()));
    }
}

#[test]
fn a_preference_pair_has_the_prompt_of_an_instruction_example_and_both_answers() {
    let pair = PreferencePair {
        instruction: "Route the query".into(),
        input: "What's weather?".into(),
        chosen: "weather_agent".into(),
        rejected: "general_agent".into(),
        lineage: lineage(),
    };
    let formatted = format(&[], Example::Preference(pair)).unwrap();
    let [Formatted::Ready(TrainingRecord::ChatPreference(record))] = &formatted[..] else { panic!("{formatted:?}") };
    let mut with_chosen = record.prompt.clone();
    with_chosen.push(ChatMessage { role: ChatRole::Assistant, content: record.chosen.clone() });
    let instruction = format(&[], instruction("Route the query", "What's weather?")).unwrap();
    assert_eq!(instruction, [Formatted::Ready(TrainingRecord::Chat(with_chosen))]);
    assert_eq!((record.chosen.as_str(), record.rejected.as_str()), ("weather_agent", "general_agent"));
}

#[test]
fn unknown_setting_is_a_configuration_error() {
    let error = format(&[("system", "x")], instruction("Route", "q")).unwrap_err();
    assert_eq!(error, PluginError::Configuration("unknown setting `system`; known are `system_prompt`".into()));
}
