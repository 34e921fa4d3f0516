//! `tunesmith generate`: what a model answers, with and without an adapter, and what is said where it can't.

use std::fs::File;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::home::{Ended, Home, copy_folder, golden};

const PROMPT: &str = "### Instruction:\nRoute the query to an agent.\n### Input:\nmove my meeting\n### Response:\n";

/// `model` with its `adapter`, and `other`, an adapter of another model.
fn home() -> Home {
    let home = Home::empty();
    for (from, to) in
        [("llama_tied/base", "model"), ("llama_tied/adapter_init", "adapter"), ("qwen2/adapter_init", "other")]
    {
        copy_folder(&golden(from), &home.path(to));
    }
    home
}

/// An answer to [`PROMPT`], as JSON.
#[track_caller]
fn answer(home: &Home, args: &[&str]) -> Value {
    let ended = home.run(
        &[&["generate", "--base-model", "model", "--json", "--prompt", PROMPT, "--max-new-tokens", "12"], args]
            .concat(),
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut json = ended.json();
    for time in ["load_ms", "answer_ms"] {
        assert!(json.as_object_mut().unwrap().remove(time).unwrap().as_f64().unwrap() > 0.0);
    }
    json
}

#[test]
fn an_answer_streams_to_standard_output_and_json_has_the_same() {
    let home = home();
    let json = answer(&home, &[]);
    assert_eq!((&json["end"], &json["prompt_tokens"]), (&json!("max_new_tokens"), &json!(47)));
    assert_eq!(json["token_ids"].as_array().unwrap().len(), 12);

    let args = ["generate", "--base-model", "model", "--prompt", PROMPT, "--max-new-tokens", "12"];
    let Ended { code, stdout, stderr } = home.run(&args);
    assert_eq!(code, Some(0));
    assert_eq!(stdout, format!("{}\n", json["text"].as_str().unwrap()));
    assert!(stderr.starts_with("12 tokens after 47 of the prompt in "), "{stderr}");
    assert!(stderr.ends_with(" s; cut at --max-new-tokens\n"), "{stderr}");
}

#[test]
fn an_adapter_changes_the_answer() {
    let home = home();
    let with = answer(&home, &["--adapter", "adapter"]);
    assert_ne!(with, answer(&home, &[]));
    assert_eq!(with, answer(&home, &["--adapter", "adapter", "--threads", "1", "--precision", "quantized"]));
}

#[test]
fn a_seed_gives_the_same_draws_again() {
    let home = home();
    let drawn = |seed| answer(&home, &["--temperature", "1", "--top-p", "0.9", "--seed", seed]);
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
}

#[test]
fn standard_input_is_a_prompt_as_it_stands() {
    let home = home();
    home.write("prompt.txt", PROMPT);
    let mut command = home.command(&["generate", "--base-model", "model", "--json", "--max-new-tokens", "12"]);
    let output = command.stdin(Stdio::from(File::open(home.path("prompt.txt")).unwrap())).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["text"], answer(&home, &[])["text"]);
}

#[test]
fn a_chat_is_what_the_models_template_makes_of_it() {
    let home = home();
    let chat = ["generate", "--base-model", "model", "--json", "--max-new-tokens", "12", "--chat", "move my meeting"];
    home.fails(&[&chat[..3], &chat[4..]].concat(), "`model` has no chat template; give the whole text with `--prompt`");
    let template = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
                    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    home.write("model/chat_template.jinja", template);
    let rendered =
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nmove my meeting<|im_end|>\n<|im_start|>assistant\n";
    let by_template = home.run(&[&chat[..], &["--system", "Be brief."]].concat()).json();
    let by_hand = home.run(&[&chat[..6], &["--prompt", rendered]].concat()).json();
    assert_eq!(by_template["token_ids"], by_hand["token_ids"]);
    assert_eq!(by_template["prompt_tokens"], by_hand["prompt_tokens"]);
}

#[test]
fn what_has_no_answer_says_why() {
    let home = home();
    let fails = |args: &[&str], error: &str| home.fails(&[&["generate"], args].concat(), error);
    fails(
        &["--base-model", "./none", "--prompt", "x"],
        "no model at `./none`: expected a Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a .gguf file",
    );
    fails(
        &["--base-model", "model", "--adapter", "none", "--prompt", "x"],
        "no adapter at `none`: expected a PEFT folder (adapter_config.json, adapter_model.safetensors)",
    );
    fails(
        &["--base-model", "model", "--adapter", "other", "--prompt", "x"],
        "the adapter `other` does not fit the model `model`: it adapts `model.layers.0.mlp.down_proj` as a matrix of 48 by \
         80, and that model's has 48 by 96; name the model that it was trained on",
    );
    fails(
        &["--base-model", "model", "--prompt", &"q".repeat(600)],
        "the prompt has 600 tokens, which leaves no room for an answer in the model's 512 positions; shorten it",
    );
    // Standard input is empty here.
    fails(&["--base-model", "model"], "the prompt is empty: there is no token to go on from");
    fails(
        &["--base-model", "model", "--prompt", "x", "--temperature", "-1"],
        "`temperature` must be 0 or more, not -1",
    );
    fails(
        &["--base-model", "model", "--prompt", "x", "--top-p", "1.5"],
        "`top_p` must be above 0 and at most 1, not 1.5",
    );
}

#[test]
fn an_embedding_model_does_not_answer() {
    let home = Home::empty();
    copy_folder(&golden("bert/base"), &home.path("model"));
    home.fails(
        &["generate", "--base-model", "model", "--prompt", "x"],
        "`model` is a `BertModel`, a text embedding model; this needs a causal language model; name another model with \
         `--base-model`",
    );
}
