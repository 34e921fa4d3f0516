//! Makes a small Llama from nothing: a byte-level BPE tokenizer and random weights, then full fine-tuning on a corpus.
//!
//! `cargo run --release -p trainer-cuda --example pretrain -- corpus.jsonl OUT_FOLDER`
//! The corpus has one `{"text": "..."}` a line. `examples/quickstart/base` was made so.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};
use trainer_cuda::config::TrainConfig;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::encode::{EncodeConfig, Record, encode_sft};
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::Sft;
use trainer_cuda::schedule::Schedule;
use trainer_cuda::trainer::{Event, Trainer};

const VOCAB: usize = 2048;
const HIDDEN: usize = 192;
const INTERMEDIATE: usize = 512;
const LAYERS: usize = 5;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const EOS: &str = "<|endoftext|>";
const SEED: u64 = 7;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [corpus, out] = args.as_slice() else {
        return Err("usage: pretrain CORPUS.jsonl OUT_FOLDER".into());
    };
    let texts = read_corpus(corpus)?;
    let start = out.with_extension("random"); // random weights; replaced by the trained ones
    std::fs::create_dir_all(&start)?;
    write_tokenizer(&texts, &start)?;
    write_random_model(&start)?;
    train(&start, &texts, out)?;
    std::fs::remove_dir_all(&start)?;
    Ok(())
}

fn read_corpus(path: &Path) -> Result<Vec<String>> {
    let file = std::fs::read_to_string(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    file.lines()
        .map(|line| {
            Ok(serde_json::from_str::<Value>(line)?["text"].as_str().ok_or("a line without `text`")?.to_owned())
        })
        .collect()
}

fn write_tokenizer(texts: &[String], folder: &Path) -> Result<()> {
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(VOCAB)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(EOS, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<NormalizerWrapper>)
        .with_pre_tokenizer(Some(byte_level))
        .with_post_processor(Some(byte_level))
        .with_decoder(Some(byte_level))
        .build()
        .map_err(|error| error.to_string())?;
    tokenizer.train(&mut trainer, texts.iter()).map_err(|error| error.to_string())?;
    tokenizer.save(folder.join("tokenizer.json"), false).map_err(|error| error.to_string())?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": EOS,
        "model_max_length": 512,
    });
    std::fs::write(folder.join("tokenizer_config.json"), format!("{config:#}\n"))?;
    Ok(())
}

/// Normal weights of standard deviation 0.02, norms of one, as transformers initialises a Llama.
fn write_random_model(folder: &Path) -> Result<()> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_parameters": { "rope_type": "default", "rope_theta": 10000.0 },
        "tie_word_embeddings": true,
        "attention_bias": false,
        "mlp_bias": false,
        "bos_token_id": null,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "initializer_range": 0.02,
        "dtype": "bfloat16",
    });
    std::fs::write(folder.join("config.json"), format!("{config:#}\n"))?;

    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let mut shapes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    shapes.insert("model.embed_tokens.weight".into(), vec![VOCAB, HIDDEN]);
    shapes.insert("model.norm.weight".into(), vec![HIDDEN]);
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![q, HIDDEN]),
            ("self_attn.k_proj", vec![kv, HIDDEN]),
            ("self_attn.v_proj", vec![kv, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, q]),
            ("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
        ] {
            shapes.insert(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut normal = || {
        // Box and Muller's transform; the first uniform is kept above zero.
        let uniform = |bits: u32| (f64::from(bits) + 0.5) / f64::from(u32::MAX);
        let (a, b) = (uniform(rng.next_u32()), uniform(rng.next_u32()));
        (0.02 * (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    };
    let values: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let is_norm = shape.len() == 1;
            let len: usize = shape.iter().product();
            let bytes = (0..len).flat_map(|_| if is_norm { 1.0f32 } else { normal() }.to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = values.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the bytes are of this shape"))
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), &folder.join("model.safetensors"))?;
    Ok(())
}

fn train(start: &Path, texts: &[String], out: &Path) -> Result<()> {
    let base = BaseModel::open(start)?;
    let records: Vec<Record> =
        texts.iter().map(|text| Record::Text { text: text.clone(), response_start: None }).collect();
    let examples = encode_sft(&base.tokenizer, &records, &EncodeConfig { max_length: 256, ..Default::default() })?;
    let (held_out, train) = examples.examples.split_at(examples.examples.len() / 50);
    let config = TrainConfig {
        use_lora: false,
        epochs: 2,
        batch_size: 32,
        learning_rate: 3e-3,
        lr_scheduler: Schedule::Cosine,
        warmup_ratio: 0.05,
        weight_decay: 0.01,
        seed: SEED,
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(Sft::new(Cpu::new(None), &base, &config, train, held_out)?, config)?;
    trainer.train(train, held_out, None, &mut |event| {
        match event {
            Event::Step(step) if step.step % 20 == 0 || step.step == step.total_steps => println!(
                "step {}/{}  loss {:.4}  {:.0} ms  {} of {} tokens computed",
                step.step, step.total_steps, step.loss, step.step_ms, step.n_tokens, step.n_tokens_flat
            ),
            Event::Evaluation { epoch, evaluation, .. } => {
                println!("epoch {epoch:.0}: held-out loss {:.4}", evaluation.loss);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    std::fs::create_dir_all(out)?;
    trainer.save(&base, out)?;
    Ok(())
}
