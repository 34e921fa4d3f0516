//! Ranks that are processes, joined by an MPI library of this machine.

use crate::run::{Alone, Ranked, Run, Which, assert_same, config};
use serde::de::DeserializeOwned;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use trainer_cuda::Result;
use trainer_cuda::checkpoint::Checkpoints;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::method::Method;
use trainer_cuda::ranks::{Ranks, Timeouts};
use trainer_cuda::trainer::{Event, Trainer};

/// Where a process that is a rank leaves what it has; whoever starts ranks sets it.
pub(crate) const FOLDER: &str = "TUNESMITH_TEST_RANKS";

/// This process, as a rank.
struct Process {
    folder: PathBuf,
    checkpoints: Option<Checkpoints>,
    /// The rank that waits for its end after this step.
    dies: Option<(usize, usize)>,
    /// The rank that is told to stop after this step.
    stops: Option<(usize, usize)>,
}

impl Process {
    /// `None` in the process that starts ranks.
    fn this() -> Option<Self> {
        let folder = PathBuf::from(std::env::var_os(FOLDER)?);
        Some(Self { folder, checkpoints: None, dies: None, stops: None })
    }

    fn ranks(&self) -> Ranks {
        Ranks::from_environment().unwrap().unwrap()
    }

    fn rank(&self) -> usize {
        self.ranks().rank()
    }

    /// Trains, and leaves the run.
    fn work(&self, which: Which) {
        let rank = self.rank();
        match self.run(which, &config()) {
            Ok(run) => fs::write(self.folder.join(format!("run-{rank}")), serde_json::to_vec(&run).unwrap()).unwrap(),
            Err(error) => {
                eprintln!("error of rank {rank}: {error}");
                std::process::exit(3);
            }
        }
    }
}

impl Ranked for Process {
    type Device = Cpu;

    fn device(&self) -> Cpu {
        Cpu::new(Some(1))
    }

    fn world_size(&self) -> usize {
        self.ranks().world_size()
    }

    fn join<M: Method<Device = Cpu>>(&self, trainer: Trainer<M>) -> Result<Trainer<M>> {
        let timeouts = Timeouts { rendezvous: Duration::from_secs(30), step: Duration::from_secs(60) };
        trainer.over(self.ranks().meet(timeouts)?)
    }

    fn checkpoints(&self) -> Option<&Checkpoints> {
        self.checkpoints.as_ref()
    }

    fn stop(&self, event: &Event) -> bool {
        let here = |at: Option<(usize, usize)>| {
            at.is_some_and(|(rank, at)| {
                rank == self.rank() && matches!(event, Event::Step(metrics) if metrics.step == at)
            })
        };
        if here(self.dies) {
            fs::write(self.folder.join("dying"), "").unwrap();
            hang();
        }
        here(self.stops)
    }
}

/// Ranks that were started; killed where they are forgotten.
pub(crate) struct Started(pub(crate) Vec<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// This test again, as rank `rank` of as many.
fn command(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]).env(FOLDER, folder);
    command
}

/// Waits to be killed; ends by itself where whoever started it is no more.
pub(crate) fn hang() {
    let _ = std::io::stdin().read(&mut [0]);
}

pub(crate) fn start(test: &str, folder: &Path, world_size: usize) -> Started {
    let port = free_port().to_string();
    let start = |rank: usize| {
        let mut command = command(test, folder);
        // NCCL takes ranks on one GPU for those of two hosts, or refuses them.
        command.env("NCCL_HOSTID", rank.to_string());
        command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
        command.env("WORLD_SIZE", world_size.to_string()).env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    Started((0..world_size).map(start).collect())
}

impl Started {
    /// Waits for all; the exit code and standard error of each.
    pub(crate) fn wait(mut self, patience: Duration) -> Vec<(Option<i32>, String)> {
        let deadline = Instant::now() + patience;
        let mut ends = Vec::new();
        for child in &mut self.0 {
            let code = loop {
                match child.try_wait().unwrap() {
                    Some(status) => break status.code(),
                    None if Instant::now() > deadline => panic!("a rank hangs"),
                    None => thread::sleep(Duration::from_millis(10)),
                }
            };
            let mut text = String::new();
            child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            ends.push((code, text));
        }
        ends
    }
}

/// What the ranks left, once all ended well.
pub(crate) fn runs<R: DeserializeOwned>(started: Started, folder: &Path) -> Vec<R> {
    let world_size = started.0.len();
    for (rank, (code, text)) in started.wait(Duration::from_secs(120)).into_iter().enumerate() {
        assert_eq!(code, Some(0), "rank {rank}: {text}");
    }
    (0..world_size).map(|rank| read(folder, rank)).collect()
}

fn read<R: DeserializeOwned>(folder: &Path, rank: usize) -> R {
    serde_json::from_slice(&fs::read(folder.join(format!("run-{rank}"))).unwrap()).unwrap()
}

fn trains_as_one(test: &str, which: Which, world_size: usize) {
    if let Some(process) = Process::this() {
        return process.work(which);
    }
    let folder = tempfile::tempdir().unwrap();
    let runs: Vec<Run> = runs(start(test, folder.path(), world_size), folder.path());
    assert!(runs.iter().all(|run| *run == runs[0]), "a rank has something of its own");
    assert_same(&runs[0], &Alone(None).run(which, &config()).unwrap(), &format!("{which:?}"));
}

#[test]
#[ignore = "needs an MPI library: apt install libmpich12"]
fn two_processes_train_as_one_by_sft() {
    trains_as_one("processes::two_processes_train_as_one_by_sft", Which::Sft, 2);
}

#[test]
#[ignore = "needs an MPI library: apt install libmpich12"]
fn two_processes_train_as_one_by_dpo() {
    trains_as_one("processes::two_processes_train_as_one_by_dpo", Which::Dpo, 2);
}

#[test]
#[ignore = "needs an MPI library: apt install libmpich12"]
fn two_processes_train_as_one_by_triplets() {
    trains_as_one("processes::two_processes_train_as_one_by_triplets", Which::Triplets, 2);
}

#[test]
#[ignore = "needs an MPI library: apt install libmpich12"]
fn three_processes_train_as_one() {
    trains_as_one("processes::three_processes_train_as_one", Which::Sft, 3);
}

#[test]
#[ignore = "needs an MPI library: apt install libmpich12"]
fn one_process_goes_on_where_two_were_stopped() {
    let test = "processes::one_process_goes_on_where_two_were_stopped";
    let saved = |folder: &Path| Checkpoints {
        path: folder.join("checkpoint.safetensors"),
        every_steps: 100,
        base_sha256: "base".into(),
    };
    if let Some(process) = Process::this() {
        let checkpoints = Some(saved(&process.folder));
        return Process { checkpoints, stops: Some((1, 5)), ..process }.work(Which::Sft);
    }
    let folder = tempfile::tempdir().unwrap();
    let stopped: Vec<Run> = runs(start(test, folder.path(), 2), folder.path());
    assert!(stopped.iter().all(|run| run.outcome.0 == 5), "rank 1 was told, both stopped");
    let rest = Alone(Some(&saved(folder.path()))).run(Which::Sft, &config()).unwrap();
    assert_eq!(rest.outcome.1, Some(5));
    assert_same(&rest, &Alone(None).run(Which::Sft, &config()).unwrap(), "gone on with");
}

/// Kills rank `dying` in the middle of the run.
fn ends_the_others(test: &str, world_size: usize, dying: usize) {
    if let Some(process) = Process::this() {
        return Process { dies: Some((dying, 3)), ..process }.work(Which::Sft);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut started = start(test, folder.path(), world_size);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !folder.path().join("dying").exists() {
        assert!(Instant::now() < deadline, "the run did not come to its third step");
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(200)); // the others wait for it by now
    let killed = Instant::now();
    started.0[dying].kill().unwrap();
    for (rank, (code, text)) in started.wait(Duration::from_secs(10)).into_iter().enumerate() {
        if rank == dying {
            continue;
        }
        assert_eq!(code, Some(3), "{text}");
        let expected = format!(
            "error of rank {rank}: rank {dying} of {world_size} was lost: its process ended or can't be reached; see its own \
             error, and start all ranks again: they go on from the last checkpoint\n"
        );
        assert_eq!(text, expected);
    }
    println!("the others ended after {:?}", killed.elapsed());
}

#[test]
#[ignore = "needs an MPI library: apt install libmpich12"]
fn the_death_of_a_rank_ends_the_others_with_an_error() {
    ends_the_others("processes::the_death_of_a_rank_ends_the_others_with_an_error", 3, 2);
}

#[test]
#[ignore = "needs an MPI library: apt install libmpich12"]
fn the_death_of_rank_0_ends_the_other_with_an_error() {
    ends_the_others("processes::the_death_of_rank_0_ends_the_other_with_an_error", 2, 0);
}

#[test]
#[ignore = "needs an MPI launcher: apt install mpich"]
fn ranks_that_mpirun_started_train_as_one() {
    let test = "processes::ranks_that_mpirun_started_train_as_one";
    if let Some(process) = Process::this() {
        return process.work(Which::Sft);
    }
    let folder = tempfile::tempdir().unwrap();
    let started = Command::new("mpirun.mpich")
        .args(["-n", "2"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored"])
        .env(FOLDER, folder.path())
        .output();
    let output = started.unwrap_or_else(|error| panic!("mpirun.mpich: {error}; apt install mpich"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let runs: [Run; 2] = [0, 1].map(|rank| read(folder.path(), rank));
    assert_eq!(runs[0], runs[1]);
    assert_same(&runs[0], &Alone(None).run(Which::Sft, &config()).unwrap(), "mpirun");
}
