//! What a training step asks of the driver: launches, memory, waiting. Counted by the emulated driver.

#[path = "../shapes/mod.rs"]
mod shapes;
mod targets;

use cuda_emulator::{Counters, Emulator};
use shapes::{SMOLLM2_135M, Shape, Weights};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use trainer_cuda::batch::{Forest, TokenExample};
use trainer_cuda::config::{LoraConfig, Precision, TrainConfig};
use trainer_cuda::cuda::{Cuda, CudaOptions, Launches};
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::{Method, Sft};
use trainer_cuda::trainer::Trainer;

const N_TOKENS: usize = 2048;

/// The emulator counts for the whole process: one test at a time. Nothing is computed, only counted.
fn emulator() -> (Emulator, MutexGuard<'static, ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let emulator = cuda_emulator::load().expect("the emulated driver");
    emulator.set("EXECUTE", "0").expect("the option");
    (emulator, one)
}

fn trainer(shape: &Shape, options: CudaOptions, config: TrainConfig, examples: &[TokenExample]) -> Trainer<Sft<Cuda>> {
    let folder = tempfile::tempdir().expect("a folder");
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/llama_tied/base");
    shape.write(folder.path(), &tokenizer, Weights::Zero).expect("the model is written");
    let base = BaseModel::open(folder.path()).expect("the model opens");
    let libraries = Some(cuda_emulator::library_dir().to_owned());
    let cuda = Cuda::open(0, CudaOptions { libraries, ..options }).expect("a GPU");
    let budget = Forest::new(&examples.iter().collect::<Vec<_>>()).budget();
    let method = Sft::with_budget(cuda, &base, &config, budget).expect("the model loads");
    Trainer::new(method, config).expect("a valid configuration")
}

/// Completions of 64 tokens behind no common prefix.
fn examples(n_tokens: usize) -> Vec<TokenExample> {
    let example = |i: usize| TokenExample {
        input_ids: (0..64).map(|t| ((i * 64 + t) % 399 + 1) as u32).collect(),
        labels: vec![true; 64],
        response_start: 0,
    };
    (0..n_tokens / 64).map(example).collect()
}

fn config() -> TrainConfig {
    let lora = LoraConfig { rank: 8, alpha: 16.0, ..LoraConfig::default() };
    TrainConfig { precision: Precision::Bf16, lora, ..TrainConfig::default() }
}

/// Counters of each step.
fn steps(emulator: &Emulator, trainer: &mut Trainer<Sft<Cuda>>, examples: &[TokenExample], n: usize) -> Vec<Counters> {
    (0..n)
        .map(|step| {
            emulator.reset_counters();
            trainer.step(&[examples.iter().collect()], step + 1, 1e-4).expect("a step");
            emulator.counters()
        })
        .collect()
}

fn launches(counters: &Counters) -> [u64; 2] {
    let kernels = counters.kernels.values();
    let [mut eager, mut in_graphs] = [counters.blas.calls, counters.blas.graph_calls];
    for kernel in kernels {
        eager += kernel.launches;
        in_graphs += kernel.graph_launches;
    }
    [eager, in_graphs]
}

#[test]
fn a_step_of_smollm2_takes_at_most_900_launches_or_one_graph() {
    let (emulator, _one) = emulator();
    let examples = examples(N_TOKENS);
    let options = CudaOptions { graphs: false, ..CudaOptions::default() };
    let mut trainer = self::trainer(&SMOLLM2_135M, options, config(), &examples);
    let counters = steps(&emulator, &mut trainer, &examples, 2);
    for (name, kernel) in &counters[1].kernels {
        println!("{name:32} {}", kernel.launches);
    }
    println!("cuBLASLt {}", counters[1].blas.calls);
    let [eager, in_graphs] = launches(&counters[1]);
    println!("{eager} launches");
    assert!(eager <= 900, "{eager} launches");
    assert_eq!((in_graphs, counters[1].graph_launches), (0, 0));

    let mut trainer = self::trainer(&SMOLLM2_135M, CudaOptions::default(), config(), &examples);
    let counters = steps(&emulator, &mut trainer, &examples, 4);
    assert_eq!(launches(&counters[0]), [eager, 0], "the first step runs as it is");
    // The second is recorded, and replayed from then on.
    for counters in &counters[1..] {
        assert_eq!((launches(counters), counters.graph_launches), ([0, eager], 1));
    }
}

#[test]
fn the_device_counts_its_own_launches_as_the_driver_does() {
    let (emulator, _one) = emulator();
    let examples = examples(256);
    let mut trainer = self::trainer(&shapes::TINY, CudaOptions::default(), config(), &examples);
    let mut before = trainer.method().device().launches();
    for step in 0..4 {
        emulator.reset_counters();
        trainer.step(&[examples.iter().collect()], step + 1, 1e-4).expect("a step");
        let ([single, _], graphs) = (launches(&emulator.counters()), emulator.counters().graph_launches);
        let after = trainer.method().device().launches();
        let own = Launches { single: after.single - before.single, graphs: after.graphs - before.graphs };
        assert_eq!(own, Launches { single, graphs }, "step {step}");
        before = after;
    }
}

#[test]
fn a_run_allocates_once_and_what_it_uses_is_what_was_planned() {
    let (emulator, _one) = emulator();
    let examples = examples(256);
    emulator.reset_counters();
    let mut trainer = self::trainer(&shapes::TINY, CudaOptions::default(), config(), &examples);
    let loaded = emulator.counters();
    let (used, reserved) = trainer.method().device().arena_usage();
    assert_eq!(used, reserved, "everything that was planned is there, and nothing else");
    assert_eq!((loaded.allocations.count, loaded.allocations.bytes), (1, reserved as u64));
    for counters in steps(&emulator, &mut trainer, &examples, 3) {
        assert_eq!((counters.allocations.count, counters.host_allocations.count), (0, 0), "nothing in a step");
    }
    assert_eq!(trainer.method().device().arena_usage(), (used, reserved));
}

#[test]
fn a_run_waits_for_the_device_to_read_its_log_and_for_nothing_else() {
    let (emulator, _one) = emulator();
    let examples = examples(33 * 64);
    let config = TrainConfig { batch_size: 1, epochs: 1, ..config() };
    let mut trainer = self::trainer(&shapes::TINY, CudaOptions::default(), config, &examples);
    let mut waited = Vec::new();
    emulator.reset_counters();
    let outcome = trainer.train(&examples, &[], None, &mut |_| {
        let counters = emulator.counters();
        waited.push((counters.synchronisations, counters.device_to_host.count));
        ControlFlow::Continue(())
    });
    assert_eq!(outcome.expect("a run").steps, 33);
    // After the first step, and then when the log's sixteen rows are full: once for all of them, and with one copy.
    waited.dedup();
    assert_eq!(waited, [(1, 1), (2, 2), (3, 3)]);
}
