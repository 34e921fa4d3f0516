//! `tunesmith embed`: texts as vectors.

use std::fs::File;
use std::process::Stdio;

use crate::home::{Home, copy_folder, golden};

fn home() -> Home {
    let home = Home::empty();
    for (from, to) in [("bert/base", "model"), ("bert/adapter_init", "adapter"), ("jina_v3/adapter_init", "other")] {
        copy_folder(&golden(from), &home.path(to));
    }
    copy_folder(&golden("llama_tied/base"), &home.path("decoder"));
    home
}

fn vectors(lines: &str) -> Vec<Vec<f32>> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_text_is_a_line_and_json_has_the_same_numbers() {
    let home = home();
    let lines = home.run(&["embed", "--base-model", "model", "move my meeting", "hello", "move my meeting"]);
    assert_eq!((lines.code, lines.stderr.as_str()), (Some(0), "3 texts, 48 numbers each\n"));
    let embedded = vectors(&lines.stdout);
    assert_eq!(embedded.len(), 3);
    assert!(embedded.iter().all(|vector| vector.len() == 48));
    assert_eq!(embedded[0], embedded[2]);
    assert_ne!(embedded[0], embedded[1]);

    let json = home.run(&["embed", "--base-model", "model", "--json", "move my meeting", "hello"]).json();
    let same: Vec<Vec<f32>> = serde_json::from_value(json["embeddings"].clone()).unwrap();
    assert_eq!(same, embedded[..2]);
    assert_eq!((json["dimensions"].as_u64(), json["cut"].as_array().map(Vec::len)), (Some(48), Some(0)));
}

#[test]
fn standard_input_has_a_text_a_line_and_any_number_of_them() {
    let home = home();
    let texts: Vec<String> = (0..70).map(|n| format!("meeting {n}")).collect(); // more than go through the model at once
    home.write("texts.txt", texts.join("\n"));
    let mut command = home.command(&["embed", "--base-model", "model"]);
    let output = command.stdin(Stdio::from(File::open(home.path("texts.txt")).unwrap())).output().unwrap();
    let embedded = vectors(std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!(embedded.len(), 70);
    let alone = vectors(&home.run(&["embed", "--base-model", "model", "meeting 69"]).stdout);
    for (a, b) in alone[0].iter().zip(&embedded[69]) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}"); // f32, next to other texts
    }
}

#[test]
fn an_adapter_changes_the_vectors() {
    let home = home();
    let with = home.run(&["embed", "--base-model", "model", "--adapter", "adapter", "hello"]);
    assert_eq!(with.code, Some(0), "{}", with.stderr);
    assert_ne!(vectors(&with.stdout), vectors(&home.run(&["embed", "--base-model", "model", "hello"]).stdout));
}

#[test]
fn a_text_that_is_too_long_is_cut_and_told() {
    let home = home();
    let long = "hello ".repeat(100);
    let ended = home.run(&["embed", "--base-model", "model", "--json", "hello", &long]);
    assert_eq!(ended.json()["cut"], serde_json::json!([2]));
    assert!(ended.stderr.contains("text 2 is longer than the model's 64 tokens: its end is cut"), "{}", ended.stderr);
}

#[test]
fn what_has_no_vector_says_why() {
    let home = home();
    let fails = |args: &[&str], error: &str| home.fails(&[&["embed", "--base-model"], args].concat(), error);
    fails(
        &["./none", "x"],
        "no model at `./none`: expected a Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a .gguf file",
    );
    fails(
        &["decoder", "x"],
        "`decoder` is a `LlamaForCausalLM`, a causal language model; this needs a text embedding model; name another model \
         with `--base-model`",
    );
    fails(
        &["model", "--adapter", "none", "x"],
        "no adapter at `none`: expected a PEFT folder (adapter_config.json, adapter_model.safetensors)",
    );
    fails(
        &["model", "--adapter", "other", "x"],
        "the adapter `other` does not fit the model `model`: it adapts `layers.0.mlp.fc1`, which that model does not have; \
         name the model that it was trained on",
    );
    fails(&["model", "x", " "], "text 2 is empty");
    fails(&["model"], "no text to embed: give some, or lines on standard input"); // which is empty here
}
