//! `tunesmith merge` and `tunesmith export`: an adapter as a whole model, and as a file for llama.cpp.

use std::fs;

use serde_json::{Value, json};

use crate::home::{Home, copy_folder, golden};

fn home() -> Home {
    let home = Home::empty();
    for (from, to) in
        [("llama_tied/base", "model"), ("llama_tied/adapter_init", "adapter"), ("qwen2/adapter_init", "other")]
    {
        copy_folder(&golden(from), &home.path(to));
    }
    home
}

#[track_caller]
fn answer(home: &Home, model: &[&str]) -> Value {
    let ended = home.run(
        &[&["generate", "--json", "--prompt", "Route the query", "--max-new-tokens", "20", "--base-model"], model]
            .concat(),
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.json()["token_ids"].take()
}

#[test]
fn a_merged_model_answers_as_base_and_adapter_do() {
    let home = home();
    let merged = home.run(&["merge", "--base-model", "model", "--adapter", "adapter", "--out", "models/merged"]);
    assert_eq!(merged.code, Some(0), "{}", merged.stderr);
    assert_eq!(merged.stdout, "14 of 20 tensors adapted\n\nmodel: models/merged\n");
    let both = answer(&home, &["model", "--adapter", "adapter"]);
    assert_eq!(answer(&home, &["models/merged"]), both);
    assert_ne!(answer(&home, &["model"]), both);

    let entries = fs::read_dir(home.path("models/merged")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    );
    assert_eq!(fs::read_dir(home.path("models")).unwrap().count(), 1);
}

#[test]
fn a_folder_that_is_there_is_not_merged_over() {
    let home = home();
    let config = home.read("model/config.json");
    home.fails(
        &["merge", "--base-model", "model", "--adapter", "adapter", "--out", "model"],
        "`model` is there already; name another folder with `--out`, or remove it",
    );
    assert_eq!(home.read("model/config.json"), config);
}

#[test]
fn an_export_is_a_gguf_adapter_and_the_same_each_time() {
    let home = home();
    let export = |out: &str| {
        let ended = home.run(&["export", "--base-model", "model", "--adapter", "adapter", "--out", out, "--json"]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(ended.json(), json!({ "out": out, "adapted": 14 }));
        home.read(out)
    };
    let file = export("first.gguf");
    assert_eq!(&file[..8], b"GGUF\x03\0\0\0");
    assert_eq!(file[8..16], 28u64.to_le_bytes()); // A and B of each
    for text in ["adapter.lora.alpha", "blk.1.ffn_down.weight.lora_b"] {
        assert!(file.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
    }
    assert_eq!(export("second.gguf"), file);
}

#[test]
fn what_does_not_fit_is_neither_merged_nor_exported() {
    let home = home();
    for (command, out) in [("merge", "models/out"), ("export", "out.gguf")] {
        let fails = |base: &str, adapter: &str, error: &str| {
            home.fails(&[command, "--base-model", base, "--adapter", adapter, "--out", out], error);
        };
        fails(
            "model",
            "none",
            "no adapter at `none`: expected a PEFT folder (adapter_config.json, adapter_model.safetensors)",
        );
        fails(
            "model",
            "other",
            "the adapter `other` does not fit the model `model`: it adapts `model.layers.0.mlp.down_proj` as a matrix of 48 \
             by 80, and that model's has 48 by 96; name the model that it was trained on",
        );
        fails(
            "./none",
            "adapter",
            "no model at `./none`: expected a Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a .gguf \
             file",
        );
    }
}

#[test]
fn an_adapter_that_is_more_than_low_rank_updates_is_refused_by_its_key() {
    let home = home();
    let mut config: Value = serde_json::from_slice(&home.read("adapter/adapter_config.json")).unwrap();
    config["use_dora"] = json!(true);
    home.write("adapter/adapter_config.json", config.to_string());
    home.fails(
        &["merge", "--base-model", "model", "--adapter", "adapter", "--out", "merged"],
        "`adapter/adapter_config.json` needs `use_dora: true`, which is not supported in adapters",
    );
}
