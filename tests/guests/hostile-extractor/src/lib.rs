//! An extractor that breaks its contract as its setting `behaviour` says.

wit_bindgen::generate!({ world: "extractor", path: "../../../wit", generate_all });

use exports::tunesmith::plugin::extraction::{Extraction, ExtractionConfig, Guest, Skipped};
use std::hint::black_box;
use tunesmith::plugin::types::{AttributeValue, Example, InstructionExample, Lineage, MatchRule, PluginError, Span};

struct Hostile;

fn behaviour(config: &ExtractionConfig) -> &str {
    config.settings.iter().find(|(key, _)| key == "behaviour").map_or("", |(_, value)| value.as_str())
}

impl Guest for Hostile {
    fn selection(config: ExtractionConfig) -> Result<Vec<MatchRule>, PluginError> {
        match behaviour(&config) {
            "spin-in-selection" => loop {
                black_box(0);
            },
            "flood-rules" => Ok((0..5000).map(|index| MatchRule::NameExact(format!("{index}"))).collect()),
            _ => Ok(config.match_rules),
        }
    }

    fn extract(config: ExtractionConfig, spans: Vec<Span>) -> Result<Extraction, PluginError> {
        let skipped = |span: &Span, reason: String| Skipped { span_id: span.span_id.clone(), reason, warning: None };
        let mut examples: Vec<_> = spans.iter().map(|span| example(&config, span, span.span_id.clone())).collect();
        let mut left_out = Vec::new();
        match behaviour(&config) {
            "lose-a-span" => drop(examples.pop()),
            "invent-lineage" => examples.push(example(&config, &spans[0], "\x1b[31mffffffffffffffff".into())),
            "no-lineage" => {
                let Example::Instruction(example) = &mut examples[0] else { unreachable!() };
                example.lineage.span_ids.clear();
            }
            "flood-examples" => {
                examples.extend((0..20_000).map(|_| example(&config, &spans[0], spans[0].span_id.clone())));
            }
            "flood-skips" => left_out.extend((0..20_000).map(|_| skipped(&spans[0], "again".into()))),
            "flood-reasons" => {
                left_out.extend((0..4000).map(|index| skipped(&spans[index % spans.len()], format!("reason {index}"))));
            }
            "forge-warning" => {
                let warning = Some("\x1b[2Jall is well\nerror: no, it is not".into());
                let span_id = spans[0].span_id.clone();
                left_out.push(Skipped { span_id, reason: "forged".into(), warning });
            }
            "panic-in-a-batch" if spans.iter().any(|span| span.span_id.ends_with("0000000")) => panic!("on purpose"),
            "panic" => panic!("on purpose"),
            _ => {}
        }
        Ok(Extraction { examples, skipped: left_out })
    }
}

fn example(config: &ExtractionConfig, span: &Span, span_id: String) -> Example {
    let text = |key: &str| match span.attributes.iter().find(|attribute| attribute.key == key).map(|found| &found.value)
    {
        Some(AttributeValue::Text(text)) => text.clone(),
        _ => "none".into(),
    };
    Example::Instruction(InstructionExample {
        instruction: config.instruction.clone(),
        input: text("input.value"),
        output: text("output.value"),
        corrected: false,
        lineage: Lineage {
            span_ids: vec![span_id],
            trace_id: span.trace_id.clone(),
            session_id: None,
            annotation_names: Vec::new(),
        },
    })
}

export!(Hostile);
