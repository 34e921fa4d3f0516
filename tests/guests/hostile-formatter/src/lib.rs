//! A formatter that misbehaves as its setting `behaviour` says: one guest for every limit of the host.

wit_bindgen::generate!({ world: "formatter", path: "../../../wit", generate_all });

use exports::tunesmith::plugin::formatting::{
    Formatted, FormatterConfig, Guest, PreferenceRecord, PromptCompletion, TextRecord, TrainingRecord, TripletRecord,
};
use std::hint::black_box;
use tunesmith::plugin::types::{Example, PluginError};

struct Hostile;

impl Guest for Hostile {
    fn format(config: FormatterConfig, examples: Vec<Example>) -> Result<Vec<Formatted>, PluginError> {
        let behaviour = config.settings.iter().find(|(key, _)| key == "behaviour").map(|(_, value)| value.as_str());
        let record = |text: &str, response_start| {
            Formatted::Ready(TrainingRecord::Text(TextRecord { text: text.into(), response_start }))
        };
        let completion = |completion: &str| {
            let prompt_completion = PromptCompletion { prompt: "x".into(), completion: completion.into() };
            Formatted::Ready(TrainingRecord::PromptCompletion(prompt_completion))
        };
        match behaviour.unwrap_or_default() {
            "spin" => loop {
                black_box(0);
            },
            "spin-deep" => Err(PluginError::Internal(spin_at(200).to_string())),
            "panic" => panic!("on purpose"),
            "panic-at-query-0" if examples.iter().any(is_query_0) => panic!("on purpose"),
            "panic-at-query-0" => Ok(examples.iter().map(faithful).collect()),
            "allocate" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(black_box(vec![1; 1 << 20]));
                }
            }
            "allocate-slowly" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(black_box(vec![1; 1]));
                    (0..1 << 20).for_each(|n| drop(black_box(n)));
                }
            }
            "recurse" => Err(PluginError::Internal(deeper(1).to_string())),
            "flood" => Ok(flood()),
            "too-few" => Ok(Vec::new()),
            "split-character" => Ok(examples.iter().map(|_| record("é", Some(1))).collect()),
            "missing-field" => {
                Ok((0..examples.len()).map(|index| completion(if index == 5 { "" } else { "x" })).collect())
            }
            "one-prompt" => Ok((0..examples.len()).map(|index| completion(&index.to_string())).collect()),
            "equal-sides" => {
                let pair = || PreferenceRecord { prompt: "x".into(), chosen: "y".into(), rejected: "y".into() };
                Ok(examples.iter().map(|_| Formatted::Ready(TrainingRecord::Preference(pair()))).collect())
            }
            "empty-text" => {
                let triplet = || TripletRecord { anchor: "x".into(), positive: "y".into(), negative: " ".into() };
                Ok(examples.iter().map(|_| Formatted::Ready(TrainingRecord::Triplet(triplet()))).collect())
            }
            "many-reasons" => Ok(examples
                .iter()
                .enumerate()
                .map(|(index, _)| Formatted::Skipped(format!("reason {index}")))
                .collect()),
            "forge-reason" => {
                let reason = format!("\x1b[2J\rdone\nerror: \u{9b}31m{}", "x".repeat(1 << 16));
                Ok(examples.iter().map(|_| Formatted::Skipped(reason.clone())).collect())
            }
            "forge-error" => Err(PluginError::Internal("\x1b]0;owned\x07\nerror: tenant b is broken".into())),
            "skip-all" => Ok(examples.iter().map(|_| Formatted::Skipped("skipped on purpose".into())).collect()),
            "refuse" => Err(PluginError::InvalidItem((0, "refused on purpose".into()))),
            other => Err(PluginError::Configuration(format!("no behaviour `{other}`"))),
        }
    }
}

/// A record that a well-behaved formatter could write.
fn faithful(example: &Example) -> Formatted {
    match example {
        Example::Instruction(example) => {
            let (prompt, completion) = (example.input.clone(), example.output.clone());
            Formatted::Ready(TrainingRecord::PromptCompletion(PromptCompletion { prompt, completion }))
        }
        _ => Formatted::Skipped("no instruction".into()),
    }
}

fn is_query_0(example: &Example) -> bool {
    matches!(example, Example::Instruction(example) if example.input.starts_with("query 0 "))
}

#[inline(never)]
fn spin_at(depth: u64) -> u64 {
    match black_box(depth) {
        0 => loop {
            black_box(0);
        },
        depth => 1 + spin_at(depth - 1),
    }
}

#[inline(never)]
fn deeper(n: u64) -> u64 {
    let frame = black_box([n; 64]);
    if n == u64::MAX { 0 } else { 1 + deeper(black_box(n + 1)) + frame[3] }
}

/// 65,536 records that all alias one text of 1 MiB: little here, 64 GiB once the host has copied them out.
fn flood() -> Vec<Formatted> {
    let shared: &'static mut str = Box::leak("x".repeat(1 << 20).into_boxed_str());
    (0..1 << 16)
        .map(|_| {
            // SAFETY: the text is leaked and the vector is never dropped: the host's copy runs out of budget first.
            let text = unsafe { String::from_raw_parts(shared.as_mut_ptr(), shared.len(), shared.len()) };
            Formatted::Skipped(text)
        })
        .collect()
}

export!(Hostile);
