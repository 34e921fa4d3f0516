//! A model's memory is its weights, once: alone in its process, whose peak is measured.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // the helpers read fixtures of this repository

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use trainer_cuda::batch::Budget;
use trainer_cuda::config::{Precision, TrainConfig};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::Sft;

const VOCAB: usize = 512;
const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 4096;
const LAYERS: usize = 2;
/// Of the matrices: 33.9 million.
const PARAMETERS: usize = VOCAB * HIDDEN + LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE);

/// A Llama of zeros, in bf16.
fn write_model(folder: &Path) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/llama_tied/base");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture.join(name), folder.join(name)).unwrap();
    }
    let config: serde_json::Value = serde_json::from_slice(&fs::read(fixture.join("config.json")).unwrap()).unwrap();
    let mut config = config;
    for (key, value) in [
        ("vocab_size", VOCAB),
        ("hidden_size", HIDDEN),
        ("intermediate_size", INTERMEDIATE),
        ("num_hidden_layers", LAYERS),
        ("num_attention_heads", 16),
        ("num_key_value_heads", 16),
        ("head_dim", HIDDEN / 16),
    ] {
        config[key] = json!(value);
    }
    fs::write(folder.join("config.json"), config.to_string()).unwrap();

    let mut shapes = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ]);
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.v_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
        ] {
            shapes.insert(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    let zeros = vec![0; 2 * HIDDEN * INTERMEDIATE];
    let views = shapes.iter().map(|(name, shape)| {
        let bytes = &zeros[..2 * shape.iter().product::<usize>()];
        (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// A line of /proc/self/status, in bytes.
fn status(key: &str) -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn loading_takes_the_memory_of_the_weights_as_they_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let base = BaseModel::open(folder.path()).unwrap();
    base.sha256().unwrap();
    for (precision, bytes) in [(Precision::Bf16, 2), (Precision::Quantized, 2), (Precision::F32, 4)] {
        // 5: the peak starts again at what is used now (proc(5), clear_refs).
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmRSS");
        let config = TrainConfig { precision, ..TrainConfig::default() };
        let budget = Budget { n_tokens: 1, n_rows: 1, n_edges: 1, max_position: 1, n_sequences: 1, n_labels: 1 };
        let method = Sft::with_budget(Cpu::new(Some(2)), &base, &config, budget).unwrap();
        let (peak, after) = (status("VmHWM") - before, status("VmRSS") - before);
        let weights = bytes * PARAMETERS;
        println!("{precision:?}: weights {weights}, peak {peak}, afterwards {after}");
        // Beside the weights: the updates with their optimiser state, scratch, pages of the file being read, which are
        // at most one tensor of 8 MiB. A second copy in any type, or the file itself, would be 68 MB and more.
        assert!(peak < weights + (24 << 20), "{precision:?}: {peak} bytes at the peak for weights of {weights}");
        assert!(after + (1 << 20) > weights, "{precision:?}: {after} bytes cannot hold weights of {weights}");
        drop(method);
    }
}
