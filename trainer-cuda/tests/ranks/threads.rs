//! Ranks that are threads: how a step is shared out, and what the ranks decide together.

use crate::run::{Alone, METHODS, Ranked, Run, TOLERANCE, TRAIN, Which, assert_same, config, furthest};
use crate::small;
use std::path::Path;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use trainer_cuda::Result;
use trainer_cuda::checkpoint::Checkpoints;
use trainer_cuda::config::TrainConfig;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::{SUMS, StepState, Trainable};
use trainer_cuda::method::{Dpo, Method, Sft, Triplets};
use trainer_cuda::ranks::{Collective, Share};
use trainer_cuda::trainer::{Event, Trainer};

/// Adds up over threads, in the order of the ranks.
struct Threads {
    share: Share,
    hub: Arc<Hub>,
}

struct Hub {
    contributions: Mutex<Vec<Vec<f64>>>,
    barrier: Barrier,
}

impl Collective<Cpu> for Threads {
    fn share(&self) -> Share {
        self.share
    }

    fn sum_step(&mut self, _: &Cpu, state: &mut StepState<Cpu>, trained: &mut [Trainable<Cpu>], _: &()) -> Result<()> {
        self.sum(&mut state.sums[..SUMS])?;
        for tensor in trained {
            let mut values: Vec<f64> = tensor.grad.iter().map(|&value| f64::from(value)).collect();
            self.sum(&mut values)?;
            tensor.grad.iter_mut().zip(values).for_each(|(grad, value)| *grad = value as f32);
        }
        Ok(())
    }

    fn sum(&mut self, values: &mut [f64]) -> Result<()> {
        self.hub.contributions.lock().unwrap()[self.share.rank()] = values.to_vec();
        self.hub.barrier.wait();
        let all = self.hub.contributions.lock().unwrap().clone();
        assert!(all.iter().all(|theirs| theirs.len() == values.len()), "the ranks are at different places");
        for (index, value) in values.iter_mut().enumerate() {
            *value = all.iter().map(|theirs| theirs[index]).sum();
        }
        self.hub.barrier.wait();
        Ok(())
    }

    fn wait(&mut self, _: &Cpu) -> Result<()> {
        Ok(())
    }
}

/// One rank of a run.
struct Rank<'a> {
    share: Share,
    hub: Arc<Hub>,
    checkpoints: Option<&'a Checkpoints>,
    stop: &'a (dyn Fn(Share, &Event) -> bool + Sync),
}

impl Ranked for Rank<'_> {
    type Device = Cpu;

    fn device(&self) -> Cpu {
        Cpu::new(Some(1))
    }

    fn world_size(&self) -> usize {
        self.share.world_size()
    }

    fn join<M: Method<Device = Cpu>>(&self, trainer: Trainer<M>) -> Result<Trainer<M>> {
        Ok(trainer.with_collective(Box::new(Threads { share: self.share, hub: self.hub.clone() })))
    }

    fn checkpoints(&self) -> Option<&Checkpoints> {
        self.checkpoints
    }

    fn stop(&self, event: &Event) -> bool {
        (self.stop)(self.share, event)
    }
}

/// Runs `world_size` ranks; each has its own checkpoint, where there are any.
fn try_ranks(
    world_size: usize,
    which: Which,
    config: &TrainConfig,
    checkpoints: &[Option<&Checkpoints>],
    stop: &(dyn Fn(Share, &Event) -> bool + Sync),
) -> Vec<Result<Run>> {
    let contributions = Mutex::new(vec![Vec::new(); world_size]);
    let hub = Arc::new(Hub { contributions, barrier: Barrier::new(world_size) });
    thread::scope(|scope| {
        let start = |rank: usize| {
            let (share, hub) = (Share::new(rank, world_size), hub.clone());
            let checkpoints = checkpoints.get(rank).copied().flatten();
            scope.spawn(move || Rank { share, hub, checkpoints, stop }.run(which, config))
        };
        let started: Vec<_> = (0..world_size).map(start).collect();
        started.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The run of all ranks: they have the same weights and scores, to the bit.
fn on_ranks(
    world_size: usize,
    which: Which,
    config: &TrainConfig,
    checkpoints: Option<&Checkpoints>,
    stop: &(dyn Fn(Share, &Event) -> bool + Sync),
) -> Run {
    let checkpoints = vec![checkpoints; world_size];
    let runs = try_ranks(world_size, which, config, &checkpoints, stop);
    let runs: Vec<Run> = runs.into_iter().map(Result::unwrap).collect();
    assert!(runs.iter().all(|run| *run == runs[0]), "a rank has something of its own");
    runs.into_iter().next().unwrap()
}

fn never(_: Share, _: &Event) -> bool {
    false
}

fn checkpoints(folder: &Path) -> Checkpoints {
    Checkpoints { path: folder.join("checkpoint.safetensors"), every_steps: 1, base_sha256: "base".into() }
}

#[test]
fn two_and_three_ranks_train_as_one_by_every_method_with_a_last_batch_smaller_than_they() {
    for which in METHODS {
        let alone = Alone(None).run(which, &config()).unwrap();
        assert_eq!(alone.steps.len(), 9);
        for world_size in [2, 3] {
            let run = on_ranks(world_size, which, &config(), None, &never);
            assert_eq!(run.outcome, alone.outcome);
            assert_same(&run, &alone, &format!("{which:?} on {world_size}"));
        }
    }
}

#[test]
fn the_buffers_of_a_rank_hold_its_share_of_a_batch_and_no_more() {
    let of_ranks = |world_size: usize| {
        let config = TrainConfig { world_size, ..config() };
        let (base, encoder) = (small::base(), small::encoder_base());
        let (sequences, pairs, triplets) = (small::sequences(&base), small::pairs(&base), small::triplets(&encoder));
        let sft = Sft::<Cpu>::budget(&config, &sequences[..TRAIN], &sequences[TRAIN..]);
        let dpo = Dpo::<Cpu>::budget(&config, &pairs[..TRAIN], &pairs[TRAIN..]);
        let texts = Triplets::<Cpu>::budget(&config, &triplets[..TRAIN], &triplets[TRAIN..]);
        [sft.n_tokens, dpo.n_tokens, texts.n_tokens]
    };
    let (one, two) = (of_ranks(1), of_ranks(2));
    for (one, two) in one.into_iter().zip(two) {
        assert!(two >= one.div_ceil(2) && 10 * two < 8 * one, "{two} of {one}");
    }
}

#[test]
fn full_fine_tuning_on_two_ranks_is_that_on_one() {
    let config = TrainConfig { use_lora: false, learning_rate: 1e-4, ..config() };
    let alone = Alone(None).run(Which::Sft, &config).unwrap();
    assert_same(&on_ranks(2, Which::Sft, &config, None, &never), &alone, "full");
}

/// Where a pass is one example, every example has the masks that it has on one rank; elsewhere it has others, and the run
/// is another.
#[test]
fn dropout_drops_the_same_where_every_pass_is_one_example() {
    let mut dropped = TrainConfig { batch_size: 1, gradient_accumulation_steps: 8, ..config() };
    dropped.lora.dropout = 0.3;
    let alone = Alone(None).run(Which::Sft, &dropped).unwrap();
    assert_same(&on_ranks(2, Which::Sft, &dropped, None, &never), &alone, "dropout");

    let batched = TrainConfig { batch_size: 8, gradient_accumulation_steps: 1, ..dropped };
    let alone = Alone(None).run(Which::Sft, &batched).unwrap();
    assert!(furthest(&on_ranks(2, Which::Sft, &batched, None, &never), &alone) > TOLERANCE);
}

#[test]
fn a_rank_that_is_told_to_stop_stops_all_at_that_step_and_any_number_of_ranks_goes_on() {
    for which in METHODS {
        let alone = Alone(None).run(which, &config()).unwrap();
        // Two stop, one goes on; one stops, two go on; two stop, three go on.
        for (first, second) in [(2, 1), (1, 2), (2, 3)] {
            let folder = tempfile::tempdir().unwrap();
            let saved = checkpoints(folder.path());
            let stop = |share: Share, event: &Event| {
                share.rank() == first - 1 && matches!(event, Event::Step(step) if step.step == 5)
            };
            let run = |world_size, stop: &(dyn Fn(Share, &Event) -> bool + Sync)| {
                on_ranks(world_size, which, &config(), Some(&saved), stop)
            };
            let (steps, resumed_at, _) = run(first, &stop).outcome;
            assert_eq!((steps, resumed_at), (5, None));
            let rest = run(second, &never);
            assert_eq!(rest.outcome, (9, Some(5), alone.outcome.2));
            assert_same(&rest, &alone, &format!("{which:?}, stopped on {first}, gone on with on {second}"));
        }
    }
}

#[test]
fn ranks_stop_early_together_and_keep_the_same_weights() {
    // A rate that overshoots: the held-out loss rises after a few steps.
    let config = TrainConfig { learning_rate: 0.3, epochs: 20, early_stopping_patience: Some(2), ..config() };
    let run = on_ranks(2, Which::Sft, &config, None, &never);
    let (steps, _, best) = run.outcome;
    assert_eq!(Some(steps), best.map(|best| best + 2 * 2), "two evaluations of two steps each without a lower loss");
    assert!(steps < 60);
}

#[test]
fn ranks_that_found_different_checkpoints_go_no_further() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let saved = folders.each_ref().map(|folder| checkpoints(folder.path()));
    let stop = |_: Share, event: &Event| matches!(event, Event::Step(step) if step.step == 3);
    try_ranks(1, Which::Sft, &config(), &[Some(&saved[0])], &stop).remove(0).unwrap();
    let errors = try_ranks(2, Which::Sft, &config(), &saved.each_ref().map(Some), &never);
    let errors: Vec<String> = errors.into_iter().map(|run| run.unwrap_err().to_string()).collect();
    let text = |step| {
        format!(
            "`resuming` failed between the ranks: this rank's checkpoint is of step {step}, another's is not; keep it where \
             every rank reads the same file"
        )
    };
    assert_eq!(errors, [text(3), text(0)]);
}
