//! Folders of text embedding models: every spelling that is read, and what is said about one that can't be.
#![allow(clippy::unwrap_used)] // clippy.toml's exception covers #[test] functions, not their helpers

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use trainer_cuda::config::{EncoderConfig, EncoderNames, LoraConfig, ModelConfig, Pooling, Positions, Precision};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::encoder::Encoder;
use trainer_cuda::encoder::text_batch::TextBudget;
use trainer_cuda::formats::{BaseModel, peft};
use trainer_cuda::loader::Training;

/// A copy of a golden model, to be changed.
struct Folder(tempfile::TempDir);

impl Folder {
    fn of(model: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(model).join("base");
        for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            fs::write(dir.path().join(name), fs::read(base.join(name)).unwrap()).unwrap();
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a JSON file, `null` removing what is at its keys' place in the one that is there.
    fn json(self, name: &str, changes: &Value) -> Self {
        let path = self.path(name);
        let mut value = fs::read(&path).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
        match (changes.as_object(), value.as_object_mut()) {
            (Some(changes), Some(value)) => {
                for (key, change) in changes {
                    value.insert(key.clone(), change.clone());
                }
                value.retain(|_, value| !value.is_null());
            }
            _ => value = changes.clone(),
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value.to_string()).unwrap();
        self
    }

    /// Renames the tensors; `None` leaves one out.
    fn rename(self, name: impl Fn(&str) -> Option<String>) -> Self {
        let bytes = fs::read(self.path("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let renamed = file.iter().filter_map(|(key, view)| {
            Some((name(key)?, TensorView::new(view.dtype(), view.shape().to_vec(), view.data()).unwrap()))
        });
        // The original stays mapped by nobody: it is read whole above.
        serialize_to_file(renamed.collect::<Vec<_>>(), None, &self.path("model.safetensors")).unwrap();
        self
    }

    fn open(&self) -> Result<BaseModel, String> {
        let cut = |message: String| message.replace(self.0.path().to_str().unwrap(), "m");
        BaseModel::open(self.0.path()).map_err(|err| cut(err.to_string()))
    }

    fn error(&self) -> String {
        self.open().err().unwrap()
    }

    fn encoder(&self) -> EncoderConfig {
        self.open().unwrap().encoder().unwrap().clone()
    }
}

/// Embeddings of two texts by an untrained adapter, so by the base.
fn embed(base: &BaseModel) -> Vec<Vec<f32>> {
    let lora = LoraConfig::default();
    let budget = TextBudget { n_tokens: 9, n_segments: 2, max_length: 5, n_triplets: 0 };
    let training = Training::Lora { config: &lora, seed: 1, precision: Precision::F32 };
    let mut encoder = Encoder::load(Cpu::new(Some(1)), base, training, budget).unwrap();
    encoder.embed(&[&[5, 6, 7, 8, 9], &[10, 11, 12, 13]]).unwrap()
}

fn module(path: &str, kind: &str) -> Value {
    json!({ "idx": 0, "name": "0", "path": path, "type": format!("sentence_transformers.models.{kind}") })
}

#[test]
fn a_bare_model_is_averaged_and_not_scaled() {
    let expected = EncoderConfig {
        architecture: "BertModel".into(),
        names: EncoderNames::Bert,
        hidden_size: 48,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        vocab_size: 500,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        positions: Positions::Learned { offset: 0, rows: 64 },
        max_length: 64,
        pooling: Pooling::Mean,
        normalize: false,
    };
    assert_eq!(Folder::of("bert").encoder(), expected);
    let xlm_roberta = Folder::of("xlm_roberta").encoder();
    assert_eq!(xlm_roberta.positions, Positions::Learned { offset: 2, rows: 66 });
    assert_eq!((xlm_roberta.max_length, xlm_roberta.layer_norm_eps), (64, 1e-5));
    let jina = Folder::of("jina_v3").encoder();
    assert_eq!((jina.positions, jina.names), (Positions::Rotary { theta: 20_000.0 }, EncoderNames::Jina));
}

#[test]
fn pooling_and_scaling_are_those_of_the_sentence_transformers_files() {
    let since_6 = [
        json!({ "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer" }),
        json!({ "path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling" }),
    ];
    let before = [module("", "Transformer"), module("1_Pooling", "Pooling"), module("2_Normalize", "Normalize")];
    let old = |cls: bool, mean: bool| json!({ "pooling_mode_cls_token": cls, "pooling_mode_mean_tokens": mean });
    let cases = [
        (json!(since_6), json!({ "pooling_mode": "mean", "include_prompt": true }), (Pooling::Mean, false)),
        (json!(since_6), json!({ "pooling_mode": ["cls"] }), (Pooling::Cls, false)),
        (json!(before), old(true, false), (Pooling::Cls, true)),
        (json!(before), old(false, true), (Pooling::Mean, true)),
        (json!(before), old(false, false), (Pooling::Mean, true)),
    ];
    for (modules, pooling, expected) in cases {
        let folder = Folder::of("bert").json("modules.json", &modules).json("1_Pooling/config.json", &pooling);
        let config = folder.encoder();
        assert_eq!((config.pooling, config.normalize), expected, "{modules} {pooling}");
    }
}

#[test]
fn the_longest_text_is_the_smallest_of_what_the_files_say() {
    let max_length = |sentence: Option<usize>, tokenizer: Value| {
        let folder = Folder::of("xlm_roberta").json("tokenizer_config.json", &json!({ "model_max_length": tokenizer }));
        let folder = match sentence {
            Some(length) => folder.json("sentence_bert_config.json", &json!({ "max_seq_length": length })),
            None => folder,
        };
        folder.encoder().max_length
    };
    assert_eq!(max_length(None, json!(40)), 40);
    assert_eq!(max_length(None, json!(1e30)), 64); // transformers' word for "none": 66 rows, 2 for padding
    assert_eq!(max_length(None, Value::Null), 64);
    assert_eq!(max_length(Some(32), json!(40)), 32);
    assert_eq!(max_length(Some(512), json!(40)), 64);
}

#[test]
fn a_transformer_in_a_sub_folder_is_found_from_the_root_and_from_itself() {
    let folder = Folder::of("bert")
        .json("modules.json", &json!([module("0_Transformer", "Transformer"), module("1_Pooling", "Pooling")]))
        .json("1_Pooling/config.json", &json!({ "pooling_mode": "cls" }))
        .json("0_Transformer/sentence_bert_config.json", &json!({ "max_seq_length": 20 }));
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::rename(folder.path(name), folder.path("0_Transformer").join(name)).unwrap();
    }
    let base = folder.open().unwrap();
    let config = base.encoder().unwrap();
    assert_eq!((config.pooling, config.max_length), (Pooling::Cls, 20));
    // Adapters name the folder that transformers can open.
    assert_eq!(base.path(), folder.path("0_Transformer"));
    assert_eq!(BaseModel::open(&folder.path("0_Transformer")).unwrap().config, base.config);
}

#[test]
fn what_sentence_transformers_would_add_is_refused_by_name() {
    let modules = |list: Value| Folder::of("bert").json("modules.json", &list).error();
    let needs = |file: &str, what: &str| format!("`m/{file}` needs {what}, which is not supported");
    let (transformer, pooling) = (module("", "Transformer"), module("1_Pooling", "Pooling"));
    assert_eq!(
        modules(json!([transformer, pooling, module("2_Dense", "Dense")])),
        needs("modules.json", "the sentence-transformers module `sentence_transformers.models.Dense`")
    );
    assert_eq!(
        modules(json!([module("", "WordEmbeddings"), pooling])),
        needs("modules.json", "the sentence-transformers module `sentence_transformers.models.WordEmbeddings`")
    );
    assert_eq!(modules(json!([transformer])), "`m/modules.json` lacks a `Pooling` module");
    assert_eq!(
        modules(json!([transformer, module("../secret", "Pooling")])),
        "`m/modules.json` is damaged: `../secret` is not inside this folder; fetch or copy it again"
    );
    let folder = Folder::of("bert")
        .json("modules.json", &json!([transformer, pooling]))
        .json("1_Pooling/config.json", &json!({ "pooling_mode_max_tokens": true, "pooling_mode_mean_tokens": true }));
    assert_eq!(folder.error(), needs("1_Pooling/config.json", "the pooling mode `max_tokens + mean_tokens`"));
    let folder = Folder::of("bert").json("sentence_bert_config.json", &json!({ "do_lower_case": true }));
    let expected = needs("sentence_bert_config.json", "`do_lower_case: true` outside the tokenizer");
    assert_eq!(folder.error(), expected);
}

#[test]
fn a_variant_that_is_not_computed_is_refused_by_name() {
    let needs = |what: &str| format!("`m/config.json` needs {what}, which is not supported");
    let cases = [
        ("bert", json!({ "hidden_act": "gelu_new" }), needs("`hidden_act: gelu_new`")),
        (
            "bert",
            json!({ "position_embedding_type": "relative_key" }),
            needs("`position_embedding_type: relative_key`"),
        ),
        ("bert", json!({ "is_decoder": true }), needs("`is_decoder: true`")),
        (
            "jina_v3",
            json!({ "rope_parameters": { "rope_type": "yarn", "rope_theta": 2e4 } }),
            needs("rope scaling `yarn`"),
        ),
        ("bert", json!({ "hidden_size": null }), "`m/config.json` lacks `hidden_size`".to_owned()),
        (
            "bert",
            json!({ "num_attention_heads": 5 }),
            "`m/config.json` is damaged: 5 attention heads cannot share a width of 48; fetch or copy it again"
                .to_owned(),
        ),
        (
            "bert",
            json!({ "architectures": ["BertForSequenceClassification"] }),
            "`m/config.json` is a `BertForSequenceClassification` model; supported: LlamaForCausalLM, Qwen2ForCausalLM, \
             Qwen3ForCausalLM, BertModel, XLMRobertaModel, JinaEmbeddingsV3Model"
                .to_owned(),
        ),
    ];
    for (model, changes, expected) in cases {
        assert_eq!(Folder::of(model).json("config.json", &changes).error(), expected);
    }
}

#[test]
fn a_masked_language_model_gives_its_encoder_under_either_spelling() {
    let plain = embed(&Folder::of("bert").open().unwrap());
    let with_head = Folder::of("bert")
        .json("config.json", &json!({ "architectures": ["BertForMaskedLM"] }))
        .rename(|name| Some(format!("bert.{name}")));
    let base = with_head.open().unwrap();
    assert_eq!(base.encoder().unwrap().architecture, "BertModel");
    assert_eq!(embed(&base), plain);
    let tensorflow = |name: &str| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        Some(format!("bert.{name}"))
    };
    assert_eq!(embed(&Folder::of("bert").rename(tensorflow).open().unwrap()), plain);
    let roberta = Folder::of("xlm_roberta").json("config.json", &json!({ "architectures": ["XLMRobertaForMaskedLM"] }));
    let roberta = roberta.rename(|name| Some(format!("roberta.{name}"))).open().unwrap();
    assert_eq!(embed(&roberta), embed(&Folder::of("xlm_roberta").open().unwrap()));
}

#[test]
fn a_model_without_a_pooler_trains_and_is_saved_without_one() {
    let folder = Folder::of("bert").rename(|name| (!name.starts_with("pooler")).then(|| name.to_owned()));
    let base = folder.open().unwrap();
    assert_eq!(embed(&base), embed(&Folder::of("bert").open().unwrap()));
    let out = tempfile::tempdir().unwrap();
    peft::write_model(out.path(), &base, &[]).unwrap();
    let bytes = fs::read(out.path().join("model.safetensors")).unwrap();
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().len(), 0);
}

#[test]
fn jina_as_published_with_its_own_code_is_its_base_without_the_task_adapters() {
    let plain = Folder::of("jina_v3").open().unwrap();
    let changes = json!({
        "architectures": ["XLMRobertaLoRA"], "model_type": "xlm-roberta", "rope_parameters": null,
        "position_embedding_type": "rotary", "rotary_emb_base": 20000.0, "lora_adaptations": ["text-matching"],
        "auto_map": { "AutoModel": "modeling_lora.XLMRobertaLoRA" },
    });
    let published = Folder::of("jina_v3").json("config.json", &changes).rename(|name| {
        let is_matrix = name.ends_with(".weight") && !name.contains("norm") && !name.contains("_ln");
        let name = match name.strip_suffix(".weight").filter(|_| is_matrix) {
            Some(module) => format!("{module}.parametrizations.weight.original"),
            None => name.to_owned(),
        };
        Some(format!("roberta.{name}"))
    });
    let published = published.open().unwrap();
    assert_eq!(published.config, plain.config);
    assert_eq!(embed(&published), embed(&plain));
    // What is written of it is for transformers' own class.
    let config = published.hf_config();
    assert_eq!(
        (&config["model_type"], &config["architectures"][0]),
        (&json!("jina_embeddings_v3"), &json!("JinaEmbeddingsV3Model"))
    );
    assert_eq!(config["rope_parameters"], json!({ "rope_type": "default", "rope_theta": 20000.0 }));
    assert!(config.get("auto_map").is_none() && config.get("position_embedding_type").is_none());
}

#[test]
fn a_fused_matrix_that_three_cannot_share_is_damaged() {
    let folder = Folder::of("jina_v3");
    let data = [0u8; 4 * 47];
    let view = TensorView::new(Dtype::F32, vec![47], &data).unwrap();
    serialize_to_file([("encoder.layers.0.mixer.Wqkv.bias", view)], None, &folder.path("model.safetensors")).unwrap();
    let error = folder.open().unwrap().tensor("layers.0.self_attn.v_proj.bias").unwrap_err().to_string();
    assert!(error.contains("has shape [47], not 3 blocks of rows"), "{error}");
}

#[test]
fn both_kinds_of_model_are_told_apart() {
    let base = Folder::of("bert").open().unwrap();
    assert!(matches!(base.config, ModelConfig::Encoder(_)));
    let error = base.decoder().unwrap_err().to_string().replace(base.path().to_str().unwrap(), "m");
    assert_eq!(error, "`m` is a `BertModel`, a text embedding model; this needs a causal language model");
}
