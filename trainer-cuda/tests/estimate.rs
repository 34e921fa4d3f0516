//! The estimate against what is really loaded and allocated.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

use std::path::Path;

use trainer_cuda::batch::Budget;
use trainer_cuda::config::{LoraConfig, ModelConfig, TrainConfig};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::cuda::layout;
use trainer_cuda::device::{Device, LOG_COLUMNS};
use trainer_cuda::estimate::{BatchSize, Estimate, measured_flops};
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::{Method, Sft, TripletExample, Triplets};
use trainer_cuda::plan::{MemoryPlan, PlanOptions};

fn base(name: &str) -> BaseModel {
    BaseModel::open(&Path::new("tests/fixtures/golden").join(name).join("base")).unwrap()
}

const BUDGET: Budget = Budget { n_tokens: 64, n_rows: 40, n_edges: 40, max_position: 16, n_sequences: 8, n_labels: 50 };

/// Values of all trained tensors.
fn n_trained<M: Method>(method: &M) -> u64 {
    method
        .trained()
        .iter()
        .map(|tensor| method.device().weight_shape(&tensor.weight).iter().product::<usize>() as u64)
        .sum()
}

#[test]
fn trained_values_are_those_that_are_loaded() {
    let lora = TrainConfig::default();
    let full = TrainConfig { use_lora: false, ..lora.clone() };
    for name in ["llama_tied", "llama_untied_rope3", "qwen2", "qwen3"] {
        for config in [&lora, &full] {
            let base = base(name);
            let loaded = Sft::with_budget(Cpu::new(Some(1)), &base, config, BUDGET).unwrap();
            let estimate = Estimate::new(&base, config, BatchSize::Forest(BUDGET)).unwrap();
            assert_eq!(estimate.n_trained, n_trained(&loaded), "{name}, use_lora {}", config.use_lora);
        }
    }
}

#[test]
fn an_encoders_trained_values_are_those_that_are_loaded() {
    let text = || vec![2, 5, 3];
    let triplet = TripletExample { anchor: text(), positive: vec![2, 6, 3], negative: vec![2, 7, 3] };
    for name in ["bert", "xlm_roberta", "jina_v3"] {
        for use_lora in [true, false] {
            let (base, config) = (base(name), TrainConfig { use_lora, ..TrainConfig::default() });
            let examples = std::slice::from_ref(&triplet);
            let loaded = Triplets::new(Cpu::new(Some(1)), &base, &config, examples, &[]).unwrap();
            let size = BatchSize::Texts(Triplets::<Cpu>::budget(&config, examples, &[]));
            let estimate = Estimate::new(&base, &config, size).unwrap();
            assert_eq!(estimate.n_trained, n_trained(&loaded), "{name}, use_lora {use_lora}");
        }
    }
}

#[test]
fn every_buffer_of_the_plan_is_in_one_group() {
    for (name, recompute, dropout, pairs) in
        [("llama_tied", false, 0.0, false), ("qwen3", true, 0.1, false), ("qwen2", false, 0.0, true)]
    {
        let base = base(name);
        let ModelConfig::Decoder(decoder) = &base.config else { panic!("{name} is a decoder") };
        let lora = LoraConfig { dropout, ..LoraConfig::default() };
        let config = TrainConfig { recompute, lora, ..TrainConfig::default() };
        let size = BatchSize::Forest(BUDGET);
        let size = if pairs { size.of_pairs() } else { size };
        let estimate = Estimate::new(&base, &config, size).unwrap();
        let options = PlanOptions { adapted: [true; 7], lora_rank: 8, dropout: dropout > 0.0, recompute, pairs };
        let cpu_plan = MemoryPlan::new(decoder, BUDGET, options, Cpu::SIZES);
        let gpu_plan = MemoryPlan::new(decoder, BUDGET, options, layout::SIZES);
        let on_gpu: usize = gpu_plan.buffers.iter().map(layout::buffer_bytes).sum();
        let fixed = ["weights", "LoRA and optimiser", "workspace", "saving"];
        let buffers = estimate.groups.iter().filter(|group| !fixed.contains(&group.name));
        let (cpu, gpu) = buffers.fold((0, 0), |(cpu, gpu), group| (cpu + group.cpu_bytes, gpu + group.gpu_bytes));
        assert_eq!((cpu, gpu), (cpu_plan.cpu_bytes() as u64, on_gpu as u64), "{name}");
    }
}

#[test]
fn the_bytes_on_a_gpu_are_those_of_its_arena() {
    let full = TrainConfig { use_lora: false, ..TrainConfig::default() };
    for (name, config) in [("llama_tied", TrainConfig::default()), ("qwen3", full.clone()), ("bert", full)] {
        let base = base(name);
        let text = || vec![2, 5, 3];
        let examples = [TripletExample { anchor: text(), positive: vec![2, 6, 3], negative: vec![2, 7, 3] }];
        let (size, loaded) = match base.config {
            ModelConfig::Decoder(_) => {
                let sft = Sft::with_budget(Cpu::new(Some(1)), &base, &config, BUDGET).unwrap();
                (BatchSize::Forest(BUDGET), sft.decoder().plan().clone())
            }
            ModelConfig::Encoder(_) => {
                let triplets = Triplets::new(Cpu::new(Some(1)), &base, &config, &examples, &[]).unwrap();
                let size = BatchSize::Texts(Triplets::<Cpu>::budget(&config, &examples, &[]));
                (size, triplets.encoder().plan().clone())
            }
        };
        let estimate = Estimate::new(&base, &config, size).unwrap();
        // The two devices differ in the rows of their logs, and these models in no other buffer.
        let log_rows = |rows: usize| layout::aligned(8 * rows * LOG_COLUMNS);
        let logs = log_rows(layout::SIZES.log_rows) - log_rows(Cpu::SIZES.log_rows);
        assert_eq!(estimate.gpu_bytes(), (layout::arena_bytes(&loaded) + logs) as u64, "{name}");
    }
}

#[test]
fn quantised_weights_count_as_their_file_stores_them() {
    let base = BaseModel::open(Path::new("tests/fixtures/llama_tied.gguf")).unwrap();
    let bytes = |precision| {
        let config = TrainConfig { precision, ..TrainConfig::default() };
        Estimate::new(&base, &config, BatchSize::Forest(BUDGET)).unwrap().groups[0].cpu_bytes
    };
    use trainer_cuda::config::Precision::{Bf16, F32, Quantized};
    assert_eq!(bytes(Quantized), bytes(Bf16)); // its matrices are F16
    assert!(bytes(Bf16) < bytes(F32));
}

#[test]
fn a_rate_is_measured() {
    let base = base("llama_tied");
    let rate = measured_flops(&Cpu::new(Some(1)), &base.config, TrainConfig::default().precision, 64).unwrap();
    // Any processor does a million products a second, and none a quadrillion.
    assert!((1e6..1e15).contains(&rate), "{rate}");
}
