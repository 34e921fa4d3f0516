//! Base models that are missing, cut off, corrupt, or not ones that this build trains.

use std::fs;

use serde_json::{Value, json};

use crate::home::{Home, read_json, repository};

/// With one key of `config.json` changed.
fn with_config(key: &str, value: Value) -> Home {
    let home = Home::ready();
    let path = home.path("model/config.json");
    let mut config = read_json(&path);
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
    home
}

fn without(file: &str) -> Home {
    let home = Home::ready();
    fs::remove_file(home.path(file)).unwrap();
    home
}

/// Cut off after so many bytes.
fn truncated(file: &str, bytes: usize) -> Home {
    let home = Home::ready();
    let whole = home.read(file);
    assert!(bytes < whole.len());
    home.write(file, &whole[..bytes]);
    home
}

/// A run on the first `bytes` of a GGUF.
fn refuses_truncated_gguf(bytes: usize, what: &str) {
    let home = Home::ready();
    let whole = fs::read(repository("trainer-cuda/tests/fixtures/llama_tied.gguf")).unwrap();
    home.write("base.gguf", &whole[..bytes]);
    home.refuses(&["--base-model", "base.gguf"], &format!("`base.gguf` is damaged: {what}; fetch or copy it again"));
}

#[test]
fn a_missing_model_folder() {
    Home::ready().refuses(
        &["--base-model", "./models/none"],
        "no model at `./models/none`: expected a Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a \
         .gguf file",
    );
}

#[test]
fn a_hub_name_that_is_not_in_the_cache() {
    let home = Home::ready();
    let output = home.command(&["finetune", "--base-model", "org/name"]).env("HF_HUB_CACHE", "hub").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = "no model at `org/name`: expected a Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a \
                .gguf file, and the hub cache `hub` has no model of that name";
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(text), "{stderr}");
    assert!(home.outputs().is_empty());
}

#[test]
fn a_config_json_that_is_cut_off() {
    truncated("model/config.json", 20).refuses(
        &[],
        "`model/config.json` is damaged: not JSON: EOF while parsing a value at line 2 column 18; fetch or copy it again",
    );
}

#[test]
fn a_config_json_that_contradicts_the_weights() {
    with_config("hidden_size", json!(96)).refuses(
        &[],
        "`model` is damaged: tensor `model.embed_tokens.weight` has shape [400, 48], the configuration wants [400, 96]; \
         fetch or copy it again",
    );
}

#[test]
fn a_config_json_without_a_size() {
    with_config("intermediate_size", Value::Null)
        .refuses(&[], "`model/config.json` lacks `intermediate_size`; fetch or copy the model again");
}

#[test]
fn safetensors_that_are_cut_off_in_the_data() {
    truncated("model/model.safetensors", 200_000).refuses(
        &[],
        "`model/model.safetensors` is damaged: incomplete metadata, file not fully covered; fetch or copy it again",
    );
}

#[test]
fn safetensors_that_are_cut_off_in_the_header() {
    truncated("model/model.safetensors", 100)
        .refuses(&[], "`model/model.safetensors` is damaged: invalid header length; fetch or copy it again");
}

#[test]
fn safetensors_of_no_bytes() {
    truncated("model/model.safetensors", 0)
        .refuses(&[], "`model/model.safetensors` is damaged: header too small; fetch or copy it again");
}

#[test]
fn missing_safetensors() {
    without("model/model.safetensors").refuses(&[], "`model` lacks `model.safetensors`; fetch or copy the model again");
}

#[test]
fn a_missing_tensor() {
    with_config("num_hidden_layers", json!(3))
        .refuses(&[], "`model` lacks tensor `model.layers.2.self_attn.q_proj.weight`; fetch or copy the model again");
}

#[test]
fn a_gguf_that_is_cut_off() {
    refuses_truncated_gguf(0, "it ends at byte 0, inside a header field at byte 0");
    refuses_truncated_gguf(5000, "400 array elements at byte 4879, with 113 bytes left in the file");
    refuses_truncated_gguf(
        100_000,
        "tensor `blk.1.ffn_gate.weight` takes bytes 89664 to 98880 of the data, which has 90304",
    );
}

#[test]
fn a_text_file_named_gguf() {
    let home = Home::ready();
    home.write("base.gguf", "Not Found\n");
    home.refuses(
        &["--base-model", "base.gguf"],
        "`base.gguf` is damaged: it does not start with `GGUF`; fetch or copy it again",
    );
}

#[test]
fn a_missing_tokenizer_json() {
    without("model/tokenizer.json").refuses(&[], "`model` lacks `tokenizer.json`; fetch or copy the model again");
}

#[test]
fn a_tokenizer_json_that_is_cut_off() {
    truncated("model/tokenizer.json", 1).refuses(
        &[],
        "`model/tokenizer.json` is damaged: tokenizer: EOF while parsing an object at line 1 column 1; fetch or copy it \
         again",
    );
}

#[test]
fn a_tokenizer_of_a_larger_model() {
    with_config("vocab_size", json!(300)).refuses(
        &[],
        "`model` is damaged: the tokenizer has 400 ids, the embedding table 300 rows; fetch or copy it again",
    );
}

#[test]
fn an_unsupported_architecture() {
    with_config("architectures", json!(["MambaForCausalLM"])).refuses(
        &[],
        "`model/config.json` is a `MambaForCausalLM` model; supported: LlamaForCausalLM, Qwen2ForCausalLM, \
         Qwen3ForCausalLM, BertModel, XLMRobertaModel, JinaEmbeddingsV3Model; name another model with `--base-model`",
    );
}

#[test]
fn an_unsupported_activation() {
    with_config("hidden_act", json!("gelu")).refuses(
        &[],
        "`model/config.json` needs `hidden_act: gelu`, which is not supported; name another model with `--base-model`",
    );
}
