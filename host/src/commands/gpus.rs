//! `tunesmith gpus`: which GPU a training fits, and what it would cost there.

use std::collections::BTreeMap;

use serde::Serialize;
use trainer_cuda::config::Precision;
use trainer_cuda::estimate::{BatchSize, Estimate};
use trainer_cuda::formats::BaseModel;

use super::Answer;
use super::plan::duration;
use crate::cli::{GpusCommand, RecommendArgs};
use crate::config::{ConfigError, Method, PlanConfig};
use crate::error::HostError;
use crate::gpus::{self, GPUS, Gpu, LIST_PRICES_OF, Load, Price, RESERVE_BYTES, Recommendation, UTILISATION};
use crate::memory::human;
use crate::report;
use crate::tenants::Scope;

pub(super) fn run(scope: &Scope, command: GpusCommand) -> Result<Answer, HostError> {
    match command {
        GpusCommand::List(args) => {
            let (options, _) = scope.load(args.config.as_deref(), &args.options)?;
            Ok(list(&options.remote.prices))
        }
        GpusCommand::Recommend(args) => recommend(scope, &args),
    }
}

#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    gpu: Gpu,
    #[serde(flatten)]
    price: Price,
}

fn list(own: &BTreeMap<String, f64>) -> Answer {
    let listed: Vec<_> =
        GPUS.iter().filter_map(|gpu| Some(Listed { gpu: *gpu, price: gpus::price(gpu.name, own)? })).collect();
    let mut table = report::table();
    table.set_header(["GPU", "memory", "bf16 TFLOP/s", "USD an hour", ""]);
    for Listed { gpu, price } in &listed {
        let flops = if gpu.can_train() { format!("{:.0}", gpu.bf16_flops / 1e12) } else { "none".to_owned() };
        table.add_row([
            gpu.name.to_owned(),
            human(gpu.memory_bytes()),
            flops,
            format!("{:.2}", price.usd_per_hour),
            note(gpu, *price),
        ]);
    }
    report::align_right(&mut table, &[1, 2, 3]);
    Answer::new(format!("{table}\n\n{}", about_prices()), &listed)
}

fn note(gpu: &Gpu, price: Price) -> String {
    let mut notes = vec![if price.is_list_price { "list price" } else { "`remote.prices`" }];
    notes.extend((!gpu.can_train()).then_some("can't train: it has no bf16"));
    notes.join(", ")
}

fn about_prices() -> String {
    format!("list prices are Modal's of {LIST_PRICES_OF}; `[remote.prices]` has your own")
}

/// What was asked, and the answer.
#[derive(Serialize)]
struct Told {
    base_model: String,
    architecture: String,
    method: &'static str,
    lora: bool,
    examples: usize,
    epochs: usize,
    batch_size: usize,
    max_length: usize,
    tokens_per_example: usize,
    /// Of all passes over all examples.
    tokens: usize,
    plan_bytes: u64,
    reserve_bytes: u64,
    flops: f64,
    utilisation: f64,
    list_prices_of: &'static str,
    #[serde(flatten)]
    recommendation: Recommendation,
}

fn recommend(scope: &Scope, args: &RecommendArgs) -> Result<Answer, HostError> {
    let (options, _) = scope.load(args.run.config.as_deref(), &args.run.options)?;
    let mut config = PlanConfig::new(&options)?;
    config.training.precision = match config.compute.precision {
        Some(Precision::F32) => {
            return Err(ConfigError::Invalid {
                key: "training.precision",
                value: "\"f32\"".to_owned(),
                want: "a GPU computes in bf16; use `bf16` or `quantized`".to_owned(),
            }
            .into());
        }
        given => given.unwrap_or(Precision::Bf16),
    };
    let base = BaseModel::open(&config.base_model)?;
    let told = told(&config, &base, args, &options.remote.prices)?;
    Ok(Answer::new(text(&told), &told))
}

fn told(
    config: &PlanConfig,
    base: &BaseModel,
    args: &RecommendArgs,
    own: &BTreeMap<String, f64>,
) -> Result<Told, HostError> {
    let (method, texts) = match config.method {
        Method::Triplet => base.encoder().map(|_| ("triplet", 3))?,
        Method::Dpo => base.decoder().map(|_| ("dpo", 2))?,
        Method::Auto | Method::Sft => base.decoder().map(|_| ("sft", 1))?,
    };
    let training = &config.training;
    let max_length = config.encoding.max_length.min(base.config.max_length());
    let tokens_per_example = args.tokens_per_example.map_or(max_length, |n| max_length.min(n.get() as usize));
    let size = |batch_size: usize, length: usize| {
        let size = BatchSize::at_most(&base.config, texts * batch_size, length);
        if config.method == Method::Dpo { size.of_pairs() } else { size }
    };
    // Room for the longest batch, and the time of an average one.
    let plan_bytes = Estimate::new(base, training, size(training.batch_size, max_length))?.gpu_bytes();
    let batch = Estimate::new(base, training, size(training.batch_size, tokens_per_example))?;
    let passes = args.examples.get() as usize * training.epochs;
    let flops = batch.flops / training.batch_size as f64 * passes as f64;
    let recommendation =
        gpus::recommend(Load { bytes: plan_bytes, flops }, own, || remedy(config, base, |n| size(n, max_length)))?;
    Ok(Told {
        base_model: config.base_model.display().to_string(),
        architecture: base.config.architecture().to_owned(),
        method,
        lora: training.use_lora,
        examples: args.examples.get() as usize,
        epochs: training.epochs,
        batch_size: training.batch_size,
        max_length,
        tokens_per_example,
        tokens: passes * texts * tokens_per_example,
        plan_bytes,
        reserve_bytes: RESERVE_BYTES,
        flops,
        utilisation: UTILISATION,
        list_prices_of: LIST_PRICES_OF,
        recommendation,
    })
}

/// What would take less, with how much that is.
fn remedy(config: &PlanConfig, base: &BaseModel, size: impl Fn(usize) -> BatchSize) -> String {
    let mut training = config.training.clone();
    let mut flags = Vec::new();
    let mut least = String::new();
    let mut try_with = |flag: &'static str, training: &_, batch_size| {
        flags.push(flag);
        if let Ok(estimate) = Estimate::new(base, training, size(batch_size)) {
            least = format!("with `{}` it takes {}", flags.join(" "), human(estimate.gpu_bytes() + RESERVE_BYTES));
        }
    };
    if training.batch_size > 1 {
        training.batch_size = 1;
        try_with("--batch-size 1", &training, 1);
    }
    if !training.recompute {
        training.recompute = true;
        try_with("--recompute true", &training, 1);
    }
    if !training.use_lora {
        training.use_lora = true;
        try_with("--use-lora true", &training, 1);
    }
    let or = "a shorter `--max-length`, or a quantised base (a GGUF with `--precision quantized`), takes less again";
    if least.is_empty() { or.to_owned() } else { format!("{least}; {or}") }
}

fn text(told: &Told) -> String {
    let mut table = report::table();
    table.set_header(["GPU", "memory", "USD an hour", "time", "USD", ""]);
    for row in &told.recommendation.gpus {
        let mut notes = Vec::new();
        if row.gpu.name == told.recommendation.smallest {
            notes.push("smallest that fits");
        }
        if row.gpu.name == told.recommendation.cheapest {
            notes.push("cheapest training");
        }
        if !row.fits {
            notes.push(if row.gpu.can_train() { "too small" } else { "can't train: it has no bf16" });
        }
        let list = if row.price.is_list_price { "" } else { "`remote.prices`" };
        notes.extend(Some(list).filter(|list| !list.is_empty()));
        table.add_row([
            row.gpu.name.to_owned(),
            human(row.gpu.memory_bytes()),
            format!("{:.2}", row.price.usd_per_hour),
            row.seconds.map(duration).unwrap_or_default(),
            row.usd.map(usd).unwrap_or_default(),
            notes.join(", "),
        ]);
    }
    report::align_right(&mut table, &[1, 2, 3, 4]);
    format!(
        "{} of {} ({}): {} examples of {} tokens, {} epochs, batches of {}\n\
         memory: {} by the plan, {} kept for CUDA and the driver\n\n{table}\n\n\
         {}\n\
         an estimate: {:.2e} operations at {:.0}% of the GPU's bf16 peak, without loading and evaluation; {}",
        if told.lora { format!("{} with LoRA", told.method) } else { told.method.to_owned() },
        told.base_model,
        told.architecture,
        told.examples,
        told.tokens_per_example,
        told.epochs,
        told.batch_size,
        human(told.plan_bytes),
        human(told.reserve_bytes),
        format_args!("gpu = \"{}\"", told.recommendation.smallest),
        told.flops,
        100.0 * told.utilisation,
        about_prices(),
    )
}

/// Cents, and of less than a cent what there is.
fn usd(usd: f64) -> String {
    if usd < 0.01 { format!("{usd:.4}") } else { format!("{usd:.2}") }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::path::Path;

    use serde_json::{Map, Value, json};

    use super::*;
    use crate::cli::{Cli, Command};

    fn answer(words: &[&str]) -> Result<Answer, HostError> {
        let words = ["tunesmith", "gpus"].iter().chain(words).map(std::ffi::OsString::from);
        let Command::Gpus(command) = Cli::parse_from_args(words).unwrap().command else { panic!("another command") };
        run(&Scope::User { tenant_id: None }, command)
    }

    fn recommended(base: &Path, words: &[&str]) -> Result<Value, HostError> {
        let base = base.to_str().unwrap();
        answer(&[&["recommend", "--base-model", base], words].concat()).map(|answer| answer.json)
    }

    fn quickstart() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/base")
    }

    /// A model with the shapes of Llama 3.1 8B, whose weights take no room: nobody reads them.
    fn llama_8b() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
            "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "head_dim": 128, "hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0, "tie_word_embeddings": false, "eos_token_id": 0,
        });
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(quickstart().join(name), folder.path().join(name)).unwrap();
        }
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![128256, 4096]),
            ("lm_head.weight".to_owned(), vec![128256, 4096]),
            ("model.norm.weight".to_owned(), vec![4096]),
        ];
        for layer in 0..32 {
            let at = |name: &str| format!("model.layers.{layer}.{name}.weight");
            for (name, rows, cols) in [
                ("self_attn.q_proj", 4096, 4096),
                ("self_attn.k_proj", 1024, 4096),
                ("self_attn.v_proj", 1024, 4096),
                ("self_attn.o_proj", 4096, 4096),
                ("mlp.gate_proj", 14336, 4096),
                ("mlp.up_proj", 14336, 4096),
                ("mlp.down_proj", 4096, 14336),
            ] {
                tensors.push((at(name), vec![rows, cols]));
            }
            tensors.push((at("input_layernorm"), vec![4096]));
            tensors.push((at("post_attention_layernorm"), vec![4096]));
        }
        let (mut header, mut end) = (Map::new(), 0u64);
        for (name, shape) in tensors {
            let start = end;
            end += 2 * shape.iter().product::<u64>();
            header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
        }
        let header = Value::from(header).to_string();
        let mut file = File::create(folder.path().join("model.safetensors")).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.set_len(8 + header.len() as u64 + end).unwrap();
        folder
    }

    #[test]
    fn a_small_model_fits_the_smallest_gpu_and_is_reckoned_by_its_operations() {
        let told = recommended(&quickstart(), &["--examples", "100", "--tokens-per-example", "64"]).unwrap();
        assert_eq!((&told["smallest"], &told["method"], &told["epochs"]), (&json!("L4"), &json!("sft"), &json!(3)));
        assert_eq!(told["tokens"], 100 * 3 * 64);
        // By hand: five blocks of 192 wide with 512 in the middle, 2 of 6 heads for keys and values, a head of 2048, LoRA of rank 8.
        let of_block = 2 * 192 * 192 + 2 * 192 * 64 + 3 * 192 * 512;
        let of_lora = 8 * (2 * (192 + 192) + 2 * (192 + 64) + 3 * (192 + 512));
        let attention = 2.0 * 32.0 * 192.0;
        let of_token =
            5.0 * (4.0 * f64::from(of_block) + 7.0 * attention + 6.0 * f64::from(of_lora)) + 4.0 * 2048.0 * 192.0;
        let flops = told["flops"].as_f64().unwrap();
        assert!((flops / (of_token * 19_200.0) - 1.0).abs() < 1e-12, "{flops}");
        let l4 = &told["gpus"][1];
        let seconds = flops / (121e12 * 0.3);
        assert_eq!((l4["seconds"].as_f64(), l4["usd"].as_f64()), (Some(seconds), Some(seconds / 3600.0 * 0.8)));
    }

    #[test]
    fn an_8b_model_fits_24_gb_with_short_texts_and_takes_more_with_long_ones() {
        let base = llama_8b();
        let of = |words: &[&str]| recommended(base.path(), words).unwrap();
        let short = of(&["--batch-size", "1", "--max-length", "512"]);
        let bytes = short["plan_bytes"].as_u64().unwrap();
        // 8.03 billion values of two bytes each are the most of it.
        assert!((16_060_522_496..18_500_000_000).contains(&bytes), "{bytes}");
        assert_eq!((&short["smallest"], &short["architecture"]), (&json!("L4"), &json!("LlamaForCausalLM")));
        let long = of(&["--batch-size", "4", "--max-length", "2048"]);
        assert!(long["plan_bytes"].as_u64().unwrap() > 24 << 30);
        assert!(["A100-40GB", "L40S", "H100"].contains(&long["smallest"].as_str().unwrap()), "{long:#}");
    }

    #[test]
    fn what_is_too_large_for_any_gpu_says_what_would_take_less() {
        let base = llama_8b();
        let told = recommended(base.path(), &["--use-lora", "false"]).unwrap_err().describe();
        assert!(told.starts_with("no single GPU has room for this training: it takes "), "{told}");
        assert!(
            told.contains(
                "the nearest, H200, has 140.40 GiB; with `--batch-size 1 --recompute true --use-lora true` it takes 1"
            ),
            "{told}"
        );
        assert!(told.ends_with("more GPUs help little, as each holds the whole model"), "{told}");
    }

    #[test]
    fn a_gpu_does_not_compute_in_f32() {
        let told = recommended(&quickstart(), &["--precision", "f32"]).unwrap_err().describe();
        assert!(told.contains("a GPU computes in bf16; use `bf16` or `quantized`"), "{told}");
    }

    #[test]
    fn the_table_has_ones_own_prices_over_the_list() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tunesmith.toml");
        fs::write(&file, "[remote.prices]\nL4 = 0.55\n").unwrap();
        let listed = answer(&["list", "--config", file.to_str().unwrap()]).unwrap();
        assert_eq!(
            listed.json[0],
            json!({
                "name": "T4", "memory_mib": 15360, "bf16_flops": 0.0, "compute_capability": [7, 5], "list_price": 0.59,
                "usd_per_hour": 0.59, "is_list_price": true,
            })
        );
        assert_eq!((&listed.json[1]["usd_per_hour"], &listed.json[1]["is_list_price"]), (&json!(0.55), &json!(false)));
        let l4 = listed.text.lines().find(|line| line.contains("L4 ")).unwrap();
        assert_eq!(l4.split_whitespace().collect::<Vec<_>>(), ["L4", "22.49", "GiB", "121", "0.55", "`remote.prices`"]);
    }
}
