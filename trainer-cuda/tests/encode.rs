//! Records to tokens and labels: turns of a conversation, preference pairs, and what is left out.

#![allow(clippy::unwrap_used)] // the helpers read fixtures of this repository

mod small;

use std::path::Path;
use trainer_cuda::encode::{
    EncodeConfig, LossOn, OverLength, PairRecord, Prompt, Record, Skipped, encode_dpo, encode_sft,
};
use trainer_cuda::formats::{ChatMessage, TextTokenizer};

/// The small model's tokenizer with a chat template and without a token that begins a text.
fn tokenizer(template: &str) -> TextTokenizer {
    let folder = tempfile::tempdir().unwrap();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/llama_tied/base");
    std::fs::copy(base.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let config = std::fs::read_to_string(base.join("tokenizer_config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config.as_object_mut().unwrap().remove("bos_token").unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    TextTokenizer::from_folder(folder.path()).unwrap()
}

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn chat(turns: &[(&str, &str)]) -> Vec<ChatMessage> {
    turns.iter().map(|(role, content)| ChatMessage { role: (*role).into(), content: (*content).into() }).collect()
}

#[test]
fn every_assistant_turn_carries_loss_to_the_token_that_ends_it() {
    let tokenizer = tokenizer(CHATML);
    let messages =
        chat(&[("user", "find it"), ("assistant", "search"), ("user", "and me"), ("assistant", "agent two")]);
    let encoded = encode_sft(&tokenizer, &[Record::Chat(messages.clone())], &EncodeConfig::default()).unwrap();
    let example = &encoded.examples[0];
    let labelled: Vec<u32> =
        example.input_ids.iter().zip(&example.labels).filter(|(_, label)| **label).map(|(id, _)| *id).collect();
    assert_eq!(tokenizer.decode(&labelled).unwrap(), "search<|im_end|>agent two<|im_end|>");
    assert_eq!(tokenizer.decode(&example.input_ids[example.response_start..]).unwrap(), "agent two<|im_end|>");
    let whole = tokenizer.decode(&example.input_ids).unwrap();
    assert_eq!(whole, tokenizer.render_chat(&messages, false).unwrap().trim_end());
}

#[test]
fn a_template_that_rewrites_earlier_turns_is_refused_with_the_remedy() {
    // As Qwen3 drops the reasoning of turns that are not the last.
    let tokenizer = tokenizer(
        "{% for m in messages %}[{{ m.role }}]{% if loop.last %}{{ m.content }}{% else %}...{% endif %}{% endfor %}\
         {% if add_generation_prompt %}[assistant]{% endif %}",
    );
    let record = Record::Chat(chat(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]));
    assert_eq!(
        encode_sft(&tokenizer, &[record], &EncodeConfig::default()).unwrap_err().to_string(),
        "cannot encode example 0: the chat template renders turn 2 in another way once the \
         conversation goes on, so it can't be trained within it; give each assistant turn a record of its own, or use \
         loss_on = \"whole\""
    );
}

#[test]
fn a_template_whose_special_tokens_the_tokenizer_lacks_is_refused() {
    let render =
        |template: &str| tokenizer(template).render_chat(&chat(&[("user", "a")]), false).unwrap_err().to_string();
    assert_eq!(
        render("{{ bos_token }}{{ messages[0].content }}"),
        "cannot encode example 0: the chat template uses `bos_token`, which the tokenizer does not have; use the \
         tokenizer that the template was made for"
    );
    assert_eq!(
        render("<|start_of_turn|>{{ messages[0].content }}"),
        "cannot encode example 0: the chat template writes `<|start_of_turn|>`, which is no token of the tokenizer; use \
         the tokenizer that the template was made for"
    );
}

#[test]
fn an_empty_completion_is_left_out() {
    let base = small::base();
    let records = [
        Record::PromptCompletion { prompt: "Route:".into(), completion: " \n".into() },
        Record::PromptCompletion { prompt: "Route:".into(), completion: " agent".into() },
        Record::Text { text: "Route:".into(), response_start: Some(6) },
    ];
    let encoded = encode_sft(&base.tokenizer, &records, &EncodeConfig::default()).unwrap();
    assert_eq!(encoded.record_index, [1]);
    let empty = |index| Skipped { index, reason: "empty completion" };
    assert_eq!(encoded.skipped, [empty(0), empty(2)]);
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> PairRecord {
    PairRecord { prompt: Prompt::Text(prompt.into()), chosen: chosen.into(), rejected: rejected.into() }
}

#[test]
fn pairs_that_say_nothing_are_left_out_with_the_reason() {
    let base = small::base();
    let records = [pair("Q:", " a", " a"), pair("Q:", " a", ""), pair("Q:", " a", " b")];
    let encoded = encode_dpo(&base.tokenizer, &records, &EncodeConfig::default()).unwrap();
    assert_eq!(encoded.record_index, [2]);
    assert_eq!(
        encoded.skipped,
        [Skipped { index: 0, reason: "chosen equals rejected" }, Skipped { index: 1, reason: "empty completion" }]
    );
}

#[test]
fn both_sides_of_a_pair_start_where_the_earlier_of_them_does() {
    let base = small::base();
    // "agent" merges with what follows on one side only.
    let encoded =
        encode_dpo(&base.tokenizer, &[pair("The agent", "s route", " two")], &EncodeConfig::default()).unwrap();
    let sides = &encoded.examples[0];
    assert_eq!(sides.chosen.response_start, sides.rejected.response_start);
    let start = sides.chosen.response_start;
    assert_eq!(sides.chosen.input_ids[..start], sides.rejected.input_ids[..start]);
    assert!(sides.chosen.labels[start] && !sides.chosen.labels[start - 1]);
}

#[test]
fn a_pair_is_cut_only_where_that_was_asked_and_its_prompt_leaves_room() {
    let base = small::base();
    let records = [pair("Route the query to an agent:", " search agent", " the other agent")];
    let length = |text: &str| base.tokenizer.encode(text).unwrap().len();
    let prompt = length("Route the query to an agent:");
    let encode = |max_length, over_length| {
        let config = EncodeConfig { max_length, loss_on: LossOn::Auto, over_length };
        encode_dpo(&base.tokenizer, &records, &config).unwrap()
    };
    let dropped = encode(prompt + 1, OverLength::Drop);
    assert_eq!(dropped.skipped, [Skipped { index: 0, reason: "longer than max_length" }]);
    let cut = encode(prompt + 1, OverLength::Truncate);
    assert_eq!((cut.examples.len(), cut.n_truncated), (1, 1));
    assert_eq!(cut.examples[0].chosen.input_ids.len(), prompt + 1);
    let no_room = encode(prompt, OverLength::Truncate);
    assert_eq!(no_room.skipped, [Skipped { index: 0, reason: "longer than max_length" }]);
}

#[test]
fn a_chat_pair_answers_as_the_assistant() {
    let tokenizer = tokenizer(CHATML);
    let record = PairRecord {
        prompt: Prompt::Chat(chat(&[("system", "Route."), ("user", "find it")])),
        chosen: "search".into(),
        rejected: "agent".into(),
    };
    let encoded = encode_dpo(&tokenizer, &[record], &EncodeConfig::default()).unwrap();
    let chosen = &encoded.examples[0].chosen;
    assert_eq!(tokenizer.decode(&chosen.input_ids[chosen.response_start..]).unwrap(), "search<|im_end|>");
}
