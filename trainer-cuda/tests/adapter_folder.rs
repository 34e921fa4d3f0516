//! PEFT folders: what is read, what is refused, and whether an adapter fits a model.
#![allow(clippy::unwrap_used)] // clippy.toml's exception covers #[test] functions, not their helpers

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use trainer_cuda::config::{Precision, TargetModules};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::encoder::Encoder;
use trainer_cuda::encoder::text_batch::TextBatch;
use trainer_cuda::formats::{Adapter, BaseModel, peft};
use trainer_cuda::loader::Training;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(path)
}

/// A copy of a golden adapter, to be changed.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(golden("llama_tied/adapter_init").join(name), dir.path().join(name)).unwrap();
        }
        Self(dir)
    }

    fn config(self, key: &str, value: Value) -> Self {
        let path = self.0.path().join("adapter_config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
        self
    }

    /// The tensors through `change`, which drops one by giving none.
    fn tensors(self, change: impl Fn(&str, Vec<f32>) -> Option<(String, Dtype, Vec<u8>)>) -> Self {
        let path = self.0.path().join("adapter_model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let changed: Vec<_> = file
            .iter()
            .filter_map(|(name, view)| {
                let values = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                change(name, values).map(|tensor| (tensor, view.shape().to_vec()))
            })
            .collect();
        let views = changed
            .iter()
            .map(|((name, dtype, data), shape)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
        serialize_to_file(views, None, &path).unwrap();
        self
    }

    fn error(&self) -> String {
        Adapter::open(self.0.path()).unwrap_err().to_string().replace(self.0.path().to_str().unwrap(), "a")
    }
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn the_modules_are_those_that_have_tensors() {
    // PEFT's configuration lists full paths here, and may hold a pattern.
    let adapter = Adapter::open(&golden("llama_tied/adapter_init")).unwrap();
    let names = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"];
    assert_eq!(adapter.lora.target_modules, TargetModules::List(names.map(str::to_owned).to_vec()));
    assert_eq!((adapter.lora.rank, adapter.lora.scaling()), (4, 2.0));
    assert_eq!(adapter.updates.len(), 14);
    let update = &adapter.updates["model.layers.1.self_attn.k_proj"];
    assert_eq!((update.a.shape.as_slice(), update.b.shape.as_slice()), (&[4, 48][..], &[24, 4][..]));
}

#[test]
fn rslora_divides_by_the_root_of_the_rank() {
    let folder = Folder::new().config("use_rslora", json!(true));
    assert_eq!(Adapter::open(folder.0.path()).unwrap().lora.scaling(), 4.0); // alpha 8, rank 4
}

#[test]
fn half_precision_factors_become_f32() {
    let folder = Folder::new().tensors(|name, values| {
        let bytes = values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect();
        Some((name.to_owned(), Dtype::BF16, bytes))
    });
    let module = "model.layers.0.mlp.up_proj";
    let (rounded, exact) =
        (Adapter::open(folder.0.path()).unwrap(), Adapter::open(&golden("llama_tied/adapter_init")).unwrap());
    for (rounded, exact) in rounded.updates[module].b.data.iter().zip(&exact.updates[module].b.data) {
        assert_eq!(*rounded, half::bf16::from_f32(*exact).to_f32());
    }
}

#[test]
fn a_folder_without_an_adapter_is_named() {
    let error = Adapter::open(&golden("llama_tied/base")).unwrap_err().to_string();
    assert_eq!(
        error.replace(golden("").to_str().unwrap(), ""),
        "no adapter at `llama_tied/base`: expected a PEFT folder (adapter_config.json, adapter_model.safetensors)"
    );
}

#[test]
fn what_is_more_than_a_low_rank_update_is_refused() {
    let cases = [
        ("peft_type", json!("IA3"), "`peft_type: IA3`"),
        ("use_dora", json!(true), "`use_dora: true`"),
        ("fan_in_fan_out", json!(true), "`fan_in_fan_out: true`"),
        ("lora_bias", json!(true), "`lora_bias: true`"),
        ("bias", json!("all"), "`bias: all`"),
        ("modules_to_save", json!(["lm_head"]), "`modules_to_save`"),
        ("rank_pattern", json!({ "q_proj": 2 }), "`rank_pattern`"),
        ("alpha_pattern", json!({ "q_proj": 2 }), "`alpha_pattern`"),
    ];
    for (key, value, what) in cases {
        let expected = format!("`a/adapter_config.json` needs {what}, which is not supported in adapters");
        assert_eq!(Folder::new().config(key, value).error(), expected);
    }
}

#[test]
fn a_damaged_adapter_says_where() {
    let damaged = |file: &str, what: &str| format!("`a/{file}` is damaged: {what}; fetch or copy it again");
    assert_eq!(Folder::new().config("r", json!(0)).error(), damaged("adapter_config.json", "`r` is 0"));
    let module = "base_model.model.model.layers.0.mlp.up_proj";
    let without = |dropped: &'static str| {
        Folder::new().tensors(move |name, values| {
            let keep = name != format!("base_model.model.model.layers.0.mlp.up_proj.{dropped}.weight");
            keep.then(|| (name.to_owned(), Dtype::F32, f32_bytes(&values)))
        })
    };
    let weights = "adapter_model.safetensors";
    let lacks = |has: &str, lacks: &str| {
        damaged(weights, &format!("it has `{module}.{has}.weight` without `{module}.{lacks}.weight`"))
    };
    assert_eq!(without("lora_A").error(), lacks("lora_B", "lora_A"));
    assert_eq!(without("lora_B").error(), lacks("lora_A", "lora_B"));
    let renamed = Folder::new().tensors(|name, values| {
        let name = name.replace("layers.0.mlp.up_proj.lora_A.weight", "lora_embedding_A");
        (!name.ends_with("layers.0.mlp.up_proj.lora_B.weight")).then(|| (name, Dtype::F32, f32_bytes(&values)))
    });
    assert_eq!(
        renamed.error(),
        damaged(weights, "tensor `base_model.model.model.lora_embedding_A` is not of a low-rank update")
    );
    assert_eq!(
        Folder::new().config("r", json!(8)).error(),
        damaged(weights, "`model.layers.0.mlp.down_proj` has factors of [4, 96] and [48, 4], not of rank 8")
    );
    assert_eq!(Folder::new().tensors(|_, _| None).error(), damaged(weights, "it has no tensors"));
}

#[test]
fn an_adapter_of_another_model_does_not_fit() {
    let error = |adapter: &str, base: &str| {
        let (adapter, base) = (Adapter::open(&golden(adapter)).unwrap(), BaseModel::open(&golden(base)).unwrap());
        adapter.check_fits(&base).unwrap_err().to_string().replace(golden("").to_str().unwrap(), "")
    };
    let what = "the adapter `llama_untied_rope3/adapter_init` does not fit the model `llama_tied/base`: it adapts \
                `model.layers.0.mlp.down_proj` as a matrix of 40 by 88, and that model's has 48 by 96; name the model \
                that it was trained on";
    assert_eq!(error("llama_untied_rope3/adapter_init", "llama_tied/base"), what);

    let folder = Folder::new().tensors(|name, values| {
        Some((name.replace("layers.1.mlp.up_proj", "layers.7.mlp.up_proj"), Dtype::F32, f32_bytes(&values)))
    });
    let (adapter, base) =
        (Adapter::open(folder.0.path()).unwrap(), BaseModel::open(&golden("llama_tied/base")).unwrap());
    let error = adapter.check_fits(&base).unwrap_err().to_string();
    assert!(error.contains(": it adapts `model.layers.7.mlp.up_proj`, which that model does not have; "), "{error}");
}

#[test]
fn an_encoders_adapter_fits_it_and_embeds_as_the_one_in_training_does() {
    for name in ["bert", "jina_v3", "xlm_roberta"] {
        let (base, folder) =
            (BaseModel::open(&golden(&format!("{name}/base"))).unwrap(), golden(&format!("{name}/adapter_init")));
        let adapter = Adapter::open(&folder).unwrap();
        adapter.check_fits(&base).unwrap();
        let texts = ["calendar", "move my meeting"].map(|text| base.tokenizer.encode(text).unwrap());
        let texts = texts.each_ref().map(Vec::as_slice);
        let (budget, precision) = (TextBatch::new(&texts).budget(), Precision::F32);
        let cpu = || Cpu::new(Some(1));
        let mut ours = Encoder::with_adapter(cpu(), &base, Some(&adapter), precision, budget).unwrap();
        let training = Training::Lora { config: &adapter.lora, seed: 1, precision };
        let mut trained = Encoder::load(cpu(), &base, training, budget).unwrap();
        trained.write_adapter(&peft::read_adapter(&folder).unwrap()).unwrap();
        assert_eq!(ours.embed(&texts).unwrap(), trained.embed(&texts).unwrap(), "{name}");
        let mut without = Encoder::with_adapter(cpu(), &base, None, precision, budget).unwrap();
        assert_ne!(ours.embed(&texts).unwrap(), without.embed(&texts).unwrap(), "{name}");
    }
    let bert = BaseModel::open(&golden("bert/base")).unwrap();
    let error = Adapter::open(&golden("jina_v3/adapter_init")).unwrap().check_fits(&bert).unwrap_err().to_string();
    assert!(error.contains(": it adapts `layers.0.mlp.fc1`, which that model does not have; "), "{error}");
}
