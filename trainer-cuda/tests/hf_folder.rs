//! Hugging Face folders: every spelling that is read, and what is said about one that can't be.
#![allow(clippy::unwrap_used)] // clippy.toml's exception covers #[test] functions, not their helpers

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use trainer_cuda::config::RopeScaling;
use trainer_cuda::formats::{BaseModel, HostTensor};

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/llama_tied/base")
}

/// A copy of the tied golden model, to be damaged.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            fs::write(dir.path().join(name), fs::read(base().join(name)).unwrap()).unwrap();
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Merges `changes` into config.json.
    fn config(self, changes: &Value) -> Self {
        let mut config: Value = serde_json::from_slice(&fs::read(self.path("config.json")).unwrap()).unwrap();
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        fs::write(self.path("config.json"), config.to_string()).unwrap();
        self
    }

    fn open(&self) -> Result<BaseModel, String> {
        BaseModel::open(self.0.path()).map_err(|err| self.cut(&err.to_string()))
    }

    fn error(&self) -> String {
        self.open().err().unwrap()
    }

    fn cut(&self, message: &str) -> String {
        message.replace(self.0.path().to_str().unwrap(), "m")
    }
}

fn weights(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)], path: &Path) {
    let views =
        tensors.iter().map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

#[test]
fn f32_f16_and_bf16_become_f32() {
    let folder = Folder::new();
    let f16 = [0x3C00u16, 0xC000].map(u16::to_le_bytes).concat(); // 1, -2
    let bf16 = [0x3F80u16, 0xC040].map(u16::to_le_bytes).concat(); // 1, -3
    let f32 = [0.5f32, -0.1].map(f32::to_le_bytes).concat();
    let i64 = [7i64].map(i64::to_le_bytes).concat();
    let tensors = [
        ("a", Dtype::F16, vec![2, 1], f16),
        ("b", Dtype::BF16, vec![1, 2], bf16),
        ("c", Dtype::F32, vec![2], f32),
        ("d", Dtype::I64, vec![1], i64),
    ];
    weights(&tensors, &folder.path("model.safetensors"));
    let model = folder.open().unwrap();
    assert_eq!(model.tensor("a").unwrap(), HostTensor { shape: vec![2, 1], data: vec![1.0, -2.0] });
    assert_eq!(model.tensor("b").unwrap(), HostTensor { shape: vec![1, 2], data: vec![1.0, -3.0] });
    assert_eq!(model.tensor("c").unwrap(), HostTensor { shape: vec![2], data: vec![0.5, -0.1] });
    let error = |name| folder.cut(&model.tensor(name).unwrap_err().to_string());
    assert_eq!(error("d"), "`m/model.safetensors` needs type `I64` of tensor `d`, which is not supported");
    assert_eq!(error("model.norm.weight"), "`m` lacks tensor `model.norm.weight`");
}

#[test]
fn shards_are_found_through_the_index() {
    let folder = Folder::new();
    fs::remove_file(folder.path("model.safetensors")).unwrap();
    for (name, value) in [("a", 1.0f32), ("b", 2.0)] {
        let path = folder.path(&format!("model-{name}.safetensors"));
        weights(&[(name, Dtype::F32, vec![1], value.to_le_bytes().to_vec())], &path);
    }
    let index = |a: &str| json!({ "metadata": {}, "weight_map": { "a": a, "b": "model-b.safetensors" } }).to_string();
    fs::write(folder.path("model.safetensors.index.json"), index("model-a.safetensors")).unwrap();
    let model = folder.open().unwrap();
    assert_eq!(model.tensor("a").unwrap().data, [1.0]);
    assert_eq!(model.tensor("b").unwrap().data, [2.0]);

    fs::write(folder.path("model.safetensors.index.json"), index("model-c.safetensors")).unwrap();
    assert_eq!(folder.error(), "`m` lacks `model-c.safetensors`");
    fs::write(folder.path("model.safetensors.index.json"), index("../model-a.safetensors")).unwrap();
    assert_eq!(
        folder.error(),
        "`m/model.safetensors.index.json` is damaged: `../model-a.safetensors` is not a file of this folder; \
         fetch or copy it again"
    );
}

#[test]
fn the_digest_is_what_sha256sum_prints() {
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let line = |name: &str| format!("{}  {name}\n", hex(&fs::read(base().join(name)).unwrap()));
    let list = line("config.json") + &line("model.safetensors");
    assert_eq!(BaseModel::open(&base()).unwrap().sha256().unwrap(), hex(list.as_bytes()));
}

#[test]
fn the_folders_own_files_are_handed_on_unchanged() {
    let (model, dir) = (BaseModel::open(&base()).unwrap(), tempfile::tempdir().unwrap());
    model.write_tokenizer_files(dir.path()).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), fs::read(base().join(name)).unwrap());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    let config: Value = serde_json::from_slice(&fs::read(base().join("config.json")).unwrap()).unwrap();
    assert_eq!(model.hf_config(), config);
}

#[test]
fn both_spellings_of_the_rope_are_read() {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let numbers = json!({ "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 8192 });
    let with = |key: &str, value: Value| {
        let mut rope = numbers.clone();
        rope[key] = value;
        rope
    };
    let mut parameters = with("rope_type", json!("llama3"));
    parameters["rope_theta"] = json!(5e5);
    let cases = [
        (json!({ "rope_parameters": parameters }), 5e5, llama3),
        (old(json!(5e5), with("rope_type", json!("llama3"))), 5e5, llama3),
        (old(json!(5e5), with("type", json!("linear"))), 5e5, RopeScaling::Linear { factor: 8.0 }),
        (
            old(json!(5e5), json!({ "rope_type": "linear", "type": "linear", "factor": 2 })),
            5e5,
            RopeScaling::Linear { factor: 2.0 },
        ),
        (old(json!(1e6), Value::Null), 1e6, RopeScaling::None),
        (old(Value::Null, Value::Null), 1e4, RopeScaling::None),
    ];
    for (changes, theta, scaling) in cases {
        let config = Folder::new().config(&changes).open().unwrap().decoder().unwrap().clone();
        assert_eq!((config.rope_theta, config.rope_scaling), (theta, scaling), "{changes}");
    }
}

fn old(theta: Value, scaling: Value) -> Value {
    json!({ "rope_parameters": null, "rope_theta": theta, "rope_scaling": scaling })
}

#[test]
fn what_a_config_leaves_out_has_transformers_defaults() {
    let nulls = json!({ "num_key_value_heads": null, "head_dim": null, "tie_word_embeddings": null,
                        "rms_norm_eps": null, "max_position_embeddings": null, "eos_token_id": [7, 8] });
    let config = Folder::new().config(&nulls).open().unwrap().decoder().unwrap().clone();
    assert_eq!((config.num_key_value_heads, config.head_dim, config.tie_word_embeddings), (4, 12, false));
    assert_eq!((config.rms_norm_eps, config.max_position_embeddings), (1e-6, 2048));
    assert_eq!(config.eos_token_id, Some(7));
}

#[test]
fn each_architecture_has_its_own_defaults() {
    let absent = ["num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings"];
    let read = |changes: Value, absent: &[&str]| {
        let folder = Folder::new().config(&changes);
        let mut config: Value = serde_json::from_slice(&fs::read(folder.path("config.json")).unwrap()).unwrap();
        absent.iter().for_each(|key| drop(config.as_object_mut().unwrap().remove(*key)));
        fs::write(folder.path("config.json"), config.to_string()).unwrap();
        folder.open().map(|base| base.decoder().unwrap().clone())
    };
    let heads = json!({ "num_attention_heads": 64, "hidden_size": 128, "rope_parameters": null });
    let with = |architecture: &str| {
        let mut changes = heads.clone();
        changes["architectures"] = json!([architecture]);
        let config = read(changes, &absent).unwrap();
        assert_eq!((config.rope_theta, config.rms_norm_eps, config.tie_word_embeddings), (1e4, 1e-6, false));
        (config.num_key_value_heads, config.head_dim, config.max_position_embeddings)
    };
    assert_eq!(with("LlamaForCausalLM"), (64, 2, 2048));
    assert_eq!(with("Qwen2ForCausalLM"), (32, 2, 32_768));
    assert_eq!(with("Qwen3ForCausalLM"), (32, 128, 32_768));
    // `null` is not absent: as many key-value heads as heads.
    let null = json!({ "architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": null });
    assert_eq!(read(null, &[]).unwrap().num_key_value_heads, 4);
}

#[test]
fn the_architecture_says_which_layers_have_biases_and_heads_norms() {
    let both = json!({ "attention_bias": true, "mlp_bias": true });
    let read = |architecture: &str, changes: &Value| {
        let config = Folder::new().config(changes).config(&json!({ "architectures": [architecture] })).open().unwrap();
        let config = config.decoder().unwrap().clone();
        [config.qkv_bias, config.o_bias, config.mlp_bias, config.qk_norm]
    };
    assert_eq!(read("LlamaForCausalLM", &json!({})), [false, false, false, false]);
    assert_eq!(read("LlamaForCausalLM", &both), [true, true, true, false]);
    assert_eq!(read("LlamaForCausalLM", &json!({ "attention_bias": true })), [true, true, false, false]);
    assert_eq!(read("Qwen2ForCausalLM", &both), [true, false, false, false]); // transformers reads neither key
    assert_eq!(read("Qwen3ForCausalLM", &json!({})), [false, false, false, true]);
    assert_eq!(read("Qwen3ForCausalLM", &both), [true, true, false, true]);
}

#[test]
fn a_sliding_window_is_refused_only_where_it_would_hide_a_token() {
    let slides = |changes: Value| {
        let mut config = json!({ "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": true });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        Folder::new().config(&config).open().err()
    };
    let refused = |window| {
        let what = format!("a sliding window of {window} tokens (of up to 512 positions)");
        Some(format!("`m/config.json` needs {what}, which is not supported"))
    };
    assert_eq!(slides(json!({ "sliding_window": 511, "max_window_layers": 1 })), refused(511));
    assert_eq!(
        slides(json!({ "sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"] })),
        refused(64)
    );
    assert_eq!(slides(json!({ "sliding_window": 512, "max_window_layers": 1 })), None); // as long as the model's positions
    assert_eq!(slides(json!({ "sliding_window": 64, "max_window_layers": 2 })), None); // layers 0 and 1 come before it
    assert_eq!(slides(json!({ "sliding_window": 64 })), None); // from layer 28 on
    assert_eq!(slides(json!({ "sliding_window": 64, "layer_types": ["full_attention", "full_attention"] })), None);
    assert_eq!(slides(json!({ "sliding_window": null, "max_window_layers": 0 })), None);
    assert_eq!(slides(json!({ "max_window_layers": 0 })), None); // 4096
    assert_eq!(slides(json!({ "use_sliding_window": false, "sliding_window": 64, "max_window_layers": 0 })), None);
}

#[test]
fn a_config_that_cannot_be_trained_says_why() {
    let damaged = |what: &str| format!("`m/config.json` is damaged: {what}; fetch or copy it again");
    let needs = |what: &str| format!("`m/config.json` needs {what}, which is not supported");
    let cases = [
        (
            json!({ "architectures": ["MambaForCausalLM"] }),
            "`m/config.json` is a `MambaForCausalLM` model; supported: LlamaForCausalLM, Qwen2ForCausalLM, \
             Qwen3ForCausalLM, BertModel, XLMRobertaModel, JinaEmbeddingsV3Model"
                .to_owned(),
        ),
        (json!({ "hidden_size": null }), "`m/config.json` lacks `hidden_size`".to_owned()),
        (json!({ "hidden_size": "48" }), damaged("invalid type: string \"48\", expected usize")),
        (json!({ "num_key_value_heads": 3 }), damaged("4 attention heads cannot share 3 key-value heads")),
        (json!({ "head_dim": 11 }), damaged("rotary embedding needs an even `head_dim`, not 11")),
        (json!({ "hidden_act": "gelu" }), needs("`hidden_act: gelu`")),
        (json!({ "quantization_config": {} }), needs("`quantization_config` (use the unquantised model)")),
        (json!({ "partial_rotary_factor": 0.5 }), needs("`partial_rotary_factor: 0.5`")),
        (json!({ "rope_parameters": { "rope_type": "yarn", "factor": 4.0 } }), needs("rope scaling `yarn`")),
        (
            json!({ "rope_parameters": { "rope_type": "llama3", "factor": 4.0 } }),
            "`m/config.json` lacks the rope's `low_freq_factor`".to_owned(),
        ),
        (
            json!({ "vocab_size": 399 }),
            "`m` is damaged: the tokenizer has 400 ids, the embedding table 399 rows; fetch or copy it again"
                .to_owned(),
        ),
    ];
    for (changes, expected) in cases {
        assert_eq!(Folder::new().config(&changes).error(), expected);
    }
}

#[test]
fn missing_and_truncated_files_are_named() {
    let folder = Folder::new();
    let bytes = fs::read(folder.path("model.safetensors")).unwrap();
    let cases = [
        (0, "header too small"),
        (100, "invalid header length"),
        (bytes.len() / 2, "incomplete metadata, file not fully covered"),
        (bytes.len() - 1, "incomplete metadata, file not fully covered"),
    ];
    for (len, what) in cases {
        fs::write(folder.path("model.safetensors"), &bytes[..len]).unwrap();
        assert_eq!(folder.error(), format!("`m/model.safetensors` is damaged: {what}; fetch or copy it again"));
    }
    fs::remove_file(folder.path("model.safetensors")).unwrap();
    assert_eq!(folder.error(), "`m` lacks `model.safetensors`");
    fs::remove_file(folder.path("tokenizer.json")).unwrap();
    assert_eq!(folder.error(), "`m` lacks `tokenizer.json`");
    fs::write(folder.path("config.json"), "{").unwrap();
    assert_eq!(
        folder.error(),
        "`m/config.json` is damaged: not JSON: EOF while parsing an object at line 1 column 1; fetch or copy it again"
    );
    let none =
        "no model at `m`: expected a Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a .gguf file";
    fs::remove_file(folder.path("config.json")).unwrap();
    assert_eq!(folder.error(), none);
    for name in ["absent", "tokenizer_config.json"] {
        let path = folder.path(name);
        let err = BaseModel::open(&path).err().unwrap().to_string();
        assert_eq!(err.replace(path.to_str().unwrap(), "m"), none);
    }
}
