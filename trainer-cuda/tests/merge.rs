//! A merged model is its base with the adapter, in a folder that opens as any other.
#![allow(clippy::unwrap_used)] // clippy.toml's exception covers #[test] functions, not their helpers

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use trainer_cuda::batch::{Forest, TokenExample};
use trainer_cuda::config::Precision;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::decoder::Decoder;
use trainer_cuda::formats::{Adapter, BaseModel, peft};
use trainer_cuda::loader::Training;
use trainer_cuda::merge::merge;

/// f32 sums in another order.
const TOLERANCE: f64 = 1e-5;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(path)
}

fn merged(base: &BaseModel, adapter: &Adapter) -> (tempfile::TempDir, BaseModel) {
    let dir = tempfile::tempdir().unwrap();
    merge(base, adapter, dir.path()).unwrap();
    let model = BaseModel::open(dir.path()).unwrap();
    (dir, model)
}

/// Mean negative log-likelihood of a text, in nats.
fn loss(base: &BaseModel, adapter_folder: Option<&Path>) -> f64 {
    let text = "### Instruction:\nRoute the query to an agent.\n### Input:\nmove my meeting\n### Response:\ncalendar";
    let input_ids = base.tokenizer.encode(text).unwrap();
    let example = TokenExample { labels: vec![true; input_ids.len()], input_ids, response_start: 0 };
    let forest = Forest::new(&[&example]);
    let adapter = adapter_folder.map(|folder| Adapter::open(folder).unwrap());
    let precision = Precision::F32;
    let training = match &adapter {
        Some(adapter) => Training::Lora { config: &adapter.lora, seed: 0, precision },
        None => Training::Nothing { precision },
    };
    let mut decoder = Decoder::load(Cpu::new(Some(2)), base, training, forest.budget(), false, false).unwrap();
    if let Some(folder) = adapter_folder {
        decoder.write_adapter(&peft::read_adapter(folder).unwrap()).unwrap();
    }
    let logprob = decoder.score(&forest).logprob;
    -logprob.iter().map(|&logprob| f64::from(logprob)).sum::<f64>() / logprob.len() as f64
}

#[test]
fn a_merged_models_loss_is_that_of_base_and_adapter() {
    for name in ["llama_tied", "llama_untied_rope3", "qwen2", "qwen3"] {
        let base = BaseModel::open(&golden(&format!("{name}/base"))).unwrap();
        let folder = golden(&format!("{name}/adapter_init"));
        let adapter = Adapter::open(&folder).unwrap();
        let (_dir, model) = merged(&base, &adapter);
        let (ours, expected) = (loss(&model, None), loss(&base, Some(&folder)));
        assert!((ours - expected).abs() <= TOLERANCE * expected, "{name}: {ours} and {expected}");
        let change = (expected - loss(&base, None)).abs();
        assert!(change > 100.0 * TOLERANCE, "{name}: the adapter changes nothing");
    }
}

#[test]
fn only_adapted_tensors_change_and_the_rest_of_the_folder_is_the_bases() {
    let base = BaseModel::open(&golden("llama_tied/base")).unwrap();
    let (dir, model) = merged(&base, &Adapter::open(&golden("llama_tied/adapter_init")).unwrap());
    assert_eq!(model.tensors(), base.tensors());
    for info in base.tensors() {
        let same = model.tensor(&info.name).unwrap() == base.tensor(&info.name).unwrap();
        assert_eq!(same, !info.name.contains("_proj"), "{}", info.name);
    }
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        let json = |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
        assert_eq!(json(dir.path().join(name)), json(golden("llama_tied/base").join(name)), "{name}");
    }
}

#[test]
fn rslora_scales_the_merged_update_by_the_root_of_the_rank() {
    let base = BaseModel::open(&golden("llama_tied/base")).unwrap();
    let mut adapter = Adapter::open(&golden("llama_tied/adapter_init")).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let change = |adapter: &Adapter| {
        let (_dir, model) = merged(&base, adapter);
        f64::from(model.tensor(name).unwrap().data[0] - base.tensor(name).unwrap().data[0])
    };
    let plain = change(&adapter);
    adapter.lora.use_rslora = true;
    // Rank 4: alpha / 2 where it was alpha / 4. A weight of 0.1 is rounded to 2^-28, 1e-5 of its change of 1e-3.
    assert!((change(&adapter) / plain - 2.0).abs() < 1e-4, "{} {plain}", change(&adapter));
}

#[test]
fn a_bf16_base_stays_bf16() {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden("llama_tied/base")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let weights = dir.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let halves: Vec<_> = SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .map(|(name, view)| {
            let values = view.data().as_chunks().0.iter().map(|bytes| half::bf16::from_f32(f32::from_le_bytes(*bytes)));
            (name.to_owned(), view.shape().to_vec(), values.flat_map(half::bf16::to_le_bytes).collect::<Vec<u8>>())
        })
        .collect();
    let views = halves
        .iter()
        .map(|(name, shape, data)| (name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, &weights).unwrap();

    let base = BaseModel::open(dir.path()).unwrap();
    let adapter = Adapter::open(&golden("llama_tied/adapter_init")).unwrap();
    let (_dir, model) = merged(&base, &adapter);
    assert!(model.tensors().iter().all(|info| info.dtype == Dtype::BF16));
    // W + 2 * B A in f64, rounded once.
    let module = "model.layers.1.mlp.up_proj";
    let (w, update) = (base.tensor(&format!("{module}.weight")).unwrap(), &adapter.updates[module]);
    let (rank, cols) = (update.a.shape[0], update.a.shape[1]);
    let merged = model.tensor(&format!("{module}.weight")).unwrap();
    for (at, (&found, &w)) in merged.data.iter().zip(&w.data).enumerate() {
        let product =
            |r: usize| f64::from(update.b.data[at / cols * rank + r]) * f64::from(update.a.data[r * cols + at % cols]);
        let exact = f64::from(w) + 2.0 * (0..rank).map(product).sum::<f64>();
        // Half a bf16 unit, and the f32 sum's error, which may turn a tie.
        assert!((f64::from(found) - exact).abs() <= exact.abs() / 255.9, "{at}: {found} and {exact}");
    }
}

#[test]
fn a_gguf_base_becomes_a_folder() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama_tied.gguf");
    let base = BaseModel::open(&path).unwrap();
    let (dir, model) = merged(&base, &Adapter::open(&golden("llama_tied/adapter_init")).unwrap());
    assert_eq!(model.tensors(), base.tensors());
    assert!(!dir.path().join("generation_config.json").exists());
    let config: Value = serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(config["torch_dtype"], json!("float32"));
    let expected = loss(&base, Some(&golden("llama_tied/adapter_init")));
    assert!((loss(&model, None) - expected).abs() <= TOLERANCE * expected);
}

#[test]
fn an_adapter_of_another_model_is_not_merged() {
    let base = BaseModel::open(&golden("llama_tied/base")).unwrap();
    let adapter = Adapter::open(&golden("qwen2/adapter_init")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = merge(&base, &adapter, dir.path()).unwrap_err().to_string();
    assert!(error.contains("/qwen2/adapter_init` does not fit the model `"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
