//! Ranks that are processes with a GPU each, joined by NCCL: on the emulated GPU by what stands in for it.

use crate::libraries;
use crate::processes::{FOLDER, hang, runs, start};
use crate::run::{self, METHODS, Ranked, Run, TOLERANCE, Which, assert_near, furthest};
use std::env::var_os;
use std::fs;
use std::path::PathBuf;
use std::process::exit;
use std::thread;
use std::time::{Duration, Instant};
use trainer_cuda::Result;
use trainer_cuda::config::TrainConfig;
use trainer_cuda::cuda::{Cuda, CudaOptions};
use trainer_cuda::method::Method;
use trainer_cuda::ranks::{Ranks, Timeouts};
use trainer_cuda::trainer::{Event, Trainer};

/// A pass for each example, on one rank and on two: its activations are rounded to bf16 in the same way wherever it is
/// computed, and all that differs is the order in which gradients are added, as on the CPU. Examples that share a pass are
/// rounded together: the loss of a step is then another by up to 1e-3.
fn config() -> TrainConfig {
    TrainConfig { batch_size: 1, gradient_accumulation_steps: 8, ..run::config() }
}

/// On a real GPU, by how much losses and weights may be off: where a weight in its last bit rounds to bf16 the other way, it is
/// another one by 2^-8 from then on, and activations behind it round otherwise too. An H100's losses of DPO are off by 4e-3
/// after nine steps; its weights may be off by a step's update of 1e-3.
const TOLERANCES_OF_BF16: [f64; 2] = [1e-2, 1e-3];

/// A GPU, as the only rank or as one of several.
struct Gpu {
    ranks: Option<Ranks>,
    folder: Option<PathBuf>,
    /// The rank that ends in the middle.
    dies: Option<usize>,
}

impl Gpu {
    /// In a process that is a rank.
    fn this() -> Option<Self> {
        let folder = PathBuf::from(var_os(FOLDER)?);
        Some(Self { ranks: Ranks::from_environment().unwrap(), folder: Some(folder), dies: None })
    }

    fn alone() -> Self {
        Self { ranks: None, folder: None, dies: None }
    }

    /// Trains by every method, or until a rank is lost.
    fn work(&self, methods: &[Which]) {
        let rank = self.ranks.as_ref().unwrap().rank();
        let all = methods.iter().map(|&which| self.run(which, &config()));
        match all.collect::<Result<Vec<Run>>>() {
            Ok(all) => {
                let file = self.folder.as_ref().unwrap().join(format!("run-{rank}"));
                fs::write(file, serde_json::to_vec(&all).unwrap()).unwrap();
            }
            Err(error) => {
                eprintln!("error of rank {rank}: {error}");
                exit(3);
            }
        }
    }
}

impl Ranked for Gpu {
    type Device = Cuda;

    fn device(&self) -> Cuda {
        let options = CudaOptions { libraries: libraries::folder("memory"), ..CudaOptions::default() };
        let visible = trainer_cuda::cuda::report(&options).gpus.len();
        let ordinal = self.ranks.as_ref().map_or(0, |ranks| ranks.gpu(visible));
        Cuda::open(ordinal, options).expect("a GPU")
    }

    fn world_size(&self) -> usize {
        self.ranks.as_ref().map_or(1, Ranks::world_size)
    }

    fn join<M: Method<Device = Cuda>>(&self, trainer: Trainer<M>) -> Result<Trainer<M>> {
        let timeouts = Timeouts { rendezvous: Duration::from_secs(60), step: Duration::from_secs(60) };
        match &self.ranks {
            Some(ranks) => trainer.over(ranks.meet(timeouts)?),
            None => Ok(trainer),
        }
    }

    fn stop(&self, event: &Event) -> bool {
        let third = matches!(event, Event::Step(metrics) if metrics.step == 3);
        if third && self.dies.is_some_and(|dies| dies == self.ranks.as_ref().unwrap().rank()) {
            fs::write(self.folder.as_ref().unwrap().join("dying"), "").unwrap();
            hang();
        }
        false
    }
}

#[test]
fn two_gpus_train_as_one_by_every_method() {
    if let Some(gpu) = Gpu::this() {
        return gpu.work(&METHODS);
    }
    let folder = tempfile::tempdir().unwrap();
    let runs: Vec<Vec<Run>> =
        runs(start("gpus::two_gpus_train_as_one_by_every_method", folder.path(), 2), folder.path());
    assert_eq!(runs[0], runs[1], "a rank has something of its own");
    let tolerances = if libraries::folder("memory").is_some() { [TOLERANCE; 2] } else { TOLERANCES_OF_BF16 };
    for (run, which) in runs[0].iter().zip(METHODS) {
        let alone = Gpu::alone().run(which, &config()).unwrap();
        assert_near(run, &alone, &format!("{which:?} on two GPUs"), tolerances);
        // What would be left out, or counted twice, is seen at this tolerance.
        let other = Gpu::alone().run(which, &TrainConfig { seed: 1, ..config() }).unwrap();
        assert!(furthest(&other, &alone) > 10.0 * tolerances[1]);
    }
}

#[test]
fn the_death_of_a_gpus_rank_ends_the_other_with_an_error() {
    let test = "gpus::the_death_of_a_gpus_rank_ends_the_other_with_an_error";
    if let Some(gpu) = Gpu::this() {
        return Gpu { dies: Some(1), ..gpu }.work(&[Which::Sft]);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut started = start(test, folder.path(), 2);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !folder.path().join("dying").exists() {
        assert!(Instant::now() < deadline, "the run did not come to its third step");
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(500)); // the other one waits for it by now
    let killed = Instant::now();
    started.0[1].kill().unwrap();
    let (code, text) = started.wait(Duration::from_secs(20)).swap_remove(0);
    println!("the other ended after {:?}", killed.elapsed());
    assert_eq!(code, Some(3), "{text}");
    let expected = "error of rank 0: rank 1 of 2 was lost: its process ended or can't be reached; see its own error, and \
                    start all ranks again: they go on from the last checkpoint\n";
    assert!(text.ends_with(expected), "{text}");
}
