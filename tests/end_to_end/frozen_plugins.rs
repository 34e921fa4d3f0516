//! Plugins that were built against an earlier `wit/` load, and make what they always made.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use sha2::{Digest, Sha256};
use tunesmith::plugins::bindings::extraction::{Extraction, ExtractionConfig, Skipped, VerdictRules};
use tunesmith::plugins::bindings::formatting::{
    ChatMessage, ChatRole, Formatted, FormatterConfig, PromptCompletion, TextRecord, TrainingRecord,
};
use tunesmith::plugins::bindings::selection_policy::{DatasetStatistics, Decision, PolicyConfig, TrainingChoice};
use tunesmith::plugins::bindings::types::{
    Annotation, AnnotatorKind, Attribute, AttributeValue, Example, InstructionExample, Lineage, MatchRule, ModelType,
    PreferencePair, Span, SpanKind, SpanStatus, TrainingMethod,
};
use tunesmith::plugins::{Extractor, Formatter, Limits, PluginEngine, PluginKind, PluginPackage, PluginRef, Policy};

use crate::home::repository;

static ENGINE: LazyLock<Arc<PluginEngine>> = LazyLock::new(|| PluginEngine::new(Limits::default()).unwrap());

fn folder() -> PathBuf {
    repository("tests/guests/frozen/0.1.0")
}

fn package(name: &str, kind: PluginKind) -> PluginPackage {
    let component = folder().join(name).join(name).with_extension("wasm");
    let package = PluginPackage::find(&PluginRef::File(component), kind, Some("routing")).unwrap();
    assert_eq!((package.manifest.name.as_str(), package.manifest.wit.as_str()), (name, "0.1.0"));
    package
}

fn example() -> Example {
    Example::Instruction(InstructionExample {
        instruction: "Route".into(),
        input: "will it rain?".into(),
        output: "weather_agent".into(),
        corrected: false,
        lineage: lineage(&["a"]),
    })
}

fn lineage(spans: &[&str]) -> Lineage {
    Lineage {
        span_ids: spans.iter().map(|id| (*id).to_owned()).collect(),
        trace_id: "t".into(),
        session_id: None,
        annotation_names: vec!["human_approval".into()],
    }
}

/// What a frozen formatter makes of [`example`].
fn formatted(name: &str, settings: &[(&str, &str)]) -> TrainingRecord {
    let formatter = Formatter::load(&ENGINE, &package(name, PluginKind::Formatter)).unwrap();
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let config = FormatterConfig { agent_type: "routing".into(), settings };
    match formatter.format(&config, &[example()]).unwrap().remove(0) {
        Formatted::Ready(record) => record,
        Formatted::Skipped(reason) => panic!("skipped: {reason}"),
    }
}

#[test]
fn frozen_files_are_those_of_their_lock() {
    let lock: toml::Table = fs::read_to_string(folder().join("frozen.lock")).unwrap().parse().unwrap();
    let plugins = lock["plugins"].as_table().unwrap();
    let folders = fs::read_dir(folder()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(folders.count(), plugins.len());
    for (name, locked) in plugins {
        for (key, file) in [("component", format!("{name}.wasm")), ("manifest", "plugin.toml".to_owned())] {
            let digest = Sha256::digest(fs::read(folder().join(name).join(&file)).unwrap());
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(locked[key].as_str(), Some(digest.as_str()), "{name}/{file} was changed");
        }
    }
}

#[test]
fn frozen_formatters_make_the_records_they_always_made() {
    let prompt = "### Instruction:\nRoute\n### Input:\nwill it rain?\n### Response:\n";
    let pair = |prompt: &str, completion: &str| {
        TrainingRecord::PromptCompletion(PromptCompletion { prompt: prompt.into(), completion: completion.into() })
    };
    assert_eq!(formatted("terse-formatter", &[]), pair("Q: will it rain?\nA:", " weather_agent"));
    assert_eq!(formatted("prompt-completion-formatter", &[]), pair(prompt, "weather_agent"));
    assert_eq!(
        formatted("alpaca-formatter", &[]),
        TrainingRecord::Text(TextRecord {
            text: format!("{prompt}weather_agent"),
            response_start: Some(prompt.len() as u32)
        })
    );
    let message = |role, content: &str| ChatMessage { role, content: content.into() };
    assert_eq!(
        formatted("chat-formatter", &[("system_prompt", "Be brief")]),
        TrainingRecord::Chat(vec![
            message(ChatRole::System, "Be brief"),
            message(ChatRole::User, "will it rain?"),
            message(ChatRole::Assistant, "weather_agent"),
        ])
    );
}

#[test]
fn a_frozen_extractor_finds_the_examples_it_always_found() {
    let extractor = Extractor::load(&ENGINE, &package("annotated-extractor", PluginKind::Extractor)).unwrap();
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let config = ExtractionConfig {
        agent_type: "routing".into(),
        model_type: ModelType::Llm,
        instruction: "Route".into(),
        match_rules: vec![MatchRule::NameSuffix("route".into())],
        own_span_attributes: texts(&["tunesmith.run"]),
        verdicts: VerdictRules {
            annotation_names: texts(&["human_approval"]),
            annotator_kinds: vec![AnnotatorKind::Human],
            approved_labels: texts(&["approved"]),
            rejected_labels: texts(&["rejected"]),
            score_rules: vec![],
            correction_keys: texts(&["correction"]),
            explanation_correction_labels: vec![],
        },
        settings: vec![("max_pairs_per_span".into(), "1".into())],
    };
    assert_eq!(extractor.selection(&config).unwrap(), config.match_rules);

    let text = |key: &str, value: &str| Attribute { key: key.into(), value: AttributeValue::Text(value.into()) };
    let span = |id: &str, output: &str, label: Option<&str>| Span {
        span_id: id.into(),
        trace_id: "t".into(),
        parent_id: None,
        name: "agent.route".into(),
        kind: SpanKind::Agent,
        status: SpanStatus::Ok,
        start_time_ns: 1,
        end_time_ns: 2,
        attributes: vec![text("input.value", "will it rain?"), text("output.value", output)],
        annotations: label
            .map(|label| Annotation {
                name: "human_approval".into(),
                annotator_kind: AnnotatorKind::Human,
                label: Some(label.into()),
                score: None,
                explanation: None,
                identifier: String::new(),
                metadata: vec![],
                created_at_ns: 3,
                updated_at_ns: 3,
            })
            .into_iter()
            .collect(),
        document_annotations: vec![],
    };
    let spans = [
        span("a", "weather_agent", Some("approved")),
        span("b", "music_agent", Some("rejected")),
        span("c", "weather_agent", None),
    ];
    let pair = Example::Preference(PreferencePair {
        instruction: "Route".into(),
        input: "will it rain?".into(),
        chosen: "weather_agent".into(),
        rejected: "music_agent".into(),
        lineage: lineage(&["b", "a"]),
    });
    let skipped = Skipped { span_id: "c".into(), reason: "no verdict".into(), warning: None };
    assert_eq!(
        extractor.extract(&config, &spans, 1).unwrap(),
        Extraction { examples: vec![example(), pair], skipped: vec![skipped] }
    );
}

#[test]
fn a_frozen_policy_decides_as_it_always_did() {
    let policy = Policy::load(&ENGINE, &package("threshold-policy", PluginKind::Policy)).unwrap();
    let config = PolicyConfig { min_sft_examples: 50, min_dpo_pairs: 20, min_triplets: 100, settings: vec![] };
    let statistics = DatasetStatistics {
        agent_type: "routing".into(),
        model_type: ModelType::Llm,
        approved_examples: 60,
        preference_pairs: 3,
        triplets: 0,
    };
    assert_eq!(
        policy.decide(&config, &statistics).unwrap(),
        Decision::Train(TrainingChoice {
            method: TrainingMethod::Sft,
            confidence: 0.6,
            reason: "Sufficient approved examples: 60 >= 50. Recommend SFT.".into()
        })
    );
}
