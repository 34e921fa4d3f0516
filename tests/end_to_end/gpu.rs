//! Runs on a GPU, an emulated one: as on the CPU up to rounding.

use std::process::Command;

use serde_json::{Value, json};

use crate::home::{Ended, Home, copy_folder, golden, read_json, run};
use crate::spans::{Verdict, lines, span};

const EMULATED: &str = "cuda:0 (emulated CUDA device, sm_90, CUDA 13.0, cuBLASLt)";

/// A command whose GPU is the emulated one.
pub(crate) fn command(home: &Home, args: &[&str]) -> Command {
    let mut command = home.command(args);
    command.env("TUNESMITH_CUDA_LIBS", cuda_emulator::library_dir()).env("TUNESMITH_DEVICE", "cuda");
    command
}

/// The same, which must succeed.
#[track_caller]
fn succeed(home: &Home, args: &[&str]) -> Ended {
    let ended = run(command(home, args));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended
}

/// What `run.json` says of a run with these arguments, on the GPU and on the CPU.
#[track_caller]
fn reports(home: &Home, args: &[&str]) -> [Value; 2] {
    let args = [&["finetune", "--json"], args].concat();
    let [gpu, cpu] = [command(home, &args), home.command(&args)].map(run);
    [gpu, cpu].map(|ended| {
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let folder = ended.json()["adapter_path"].as_str().unwrap().to_owned();
        read_json(&home.path(&folder).join("run.json"))
    })
}

/// Held-out scores of both: the base's before, the adapter's after training.
#[track_caller]
fn assert_near([gpu, cpu]: &[Value; 2], tolerance: f64) {
    assert_eq!(gpu["report"]["device"], EMULATED);
    assert_eq!(
        (&gpu["config"]["training"]["precision"], &cpu["config"]["training"]["precision"]),
        (&json!("bf16"), &json!("f32"))
    );
    let loss = |run: &Value, who: &str| run["report"]["held_out"][who]["loss"].as_f64().unwrap();
    for who in ["base", "adapter"] {
        let (gpu, cpu) = (loss(gpu, who), loss(cpu, who));
        assert!((gpu - cpu).abs() < tolerance * cpu, "{who}: {gpu} on the GPU, {cpu} on the CPU");
    }
    assert!(loss(cpu, "adapter") < 0.9 * loss(cpu, "base"), "the run learnt something");
    let shared = |run: &Value| ["n_train", "n_held_out", "steps", "stopped"].map(|key| run["report"][key].clone());
    assert_eq!(shared(gpu), shared(cpu));
}

#[test]
fn sft_scores_as_on_the_cpu() {
    let home = Home::ready();
    // 28 steps at 1e-3: roundings of bf16 add up to less than a hundredth of the loss.
    assert_near(&reports(&home, &["--epochs", "2", "--learning-rate", "1e-3"]), 1e-2);
}

#[test]
fn dpo_scores_as_on_the_cpu() {
    let home = Home::ready();
    home.write("traces.jsonl", lines((0..60).map(|index| span(index, Verdict::Corrected("archive_agent")))));
    let reports = reports(&home, &["--method", "dpo", "--epochs", "2", "--learning-rate", "1e-3"]);
    // A loss near 0 is a difference of sums of 40 log-probabilities, each rounded.
    assert_near(&reports, 0.2);
    assert_eq!(reports[0]["report"]["held_out"]["adapter"]["reward_accuracy"], 1.0);
}

#[test]
fn triplets_score_as_on_the_cpu() {
    let home = crate::triplets::home("video");
    assert_near(&reports(&home, &["--epochs", "1", "--learning-rate", "5e-4"]), 2e-2);
}

#[test]
fn an_answer_is_that_of_the_cpu() {
    let home = Home::empty();
    copy_folder(&golden("qwen3/base"), &home.path("model"));
    copy_folder(&golden("qwen3/adapter_init"), &home.path("adapter"));
    let args = [
        "generate",
        "--base-model",
        "model",
        "--adapter",
        "adapter",
        "--json",
        "--prompt",
        "Hello",
        "--max-new-tokens",
        "6",
    ];
    let (gpu, cpu) = (succeed(&home, &args).json(), home.run(&args).json());
    assert_eq!(gpu["token_ids"], cpu["token_ids"]);
}

#[test]
fn an_embedding_is_that_of_the_cpu() {
    let home = Home::empty();
    copy_folder(&golden("bert/base"), &home.path("model"));
    let args = ["embed", "--base-model", "model", "--json", "a red car", "a blue boat on a lake"];
    let (gpu, cpu) = (succeed(&home, &args).json(), home.run(&args).json());
    let numbers = |json: &Value| -> Vec<f64> {
        let rows = json["embeddings"].as_array().unwrap().iter();
        rows.flat_map(|row| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap())).collect()
    };
    let (gpu, cpu) = (numbers(&gpu), numbers(&cpu));
    assert_eq!(gpu.len(), cpu.len());
    // Values of up to 3 through three layers in bf16.
    assert!(gpu.iter().zip(&cpu).all(|(a, b)| (a - b).abs() < 0.05), "{gpu:?} {cpu:?}");
}

#[test]
fn a_plan_measures_the_gpu_and_knows_its_memory() {
    let home = Home::ready();
    let plan = succeed(&home, &["plan", "--json", "--max-length", "64"]).json();
    assert_eq!(plan["time"]["device"], EMULATED);
    // 8 GiB less what the driver takes; the CPU's is another.
    let memory = plan["fits"]["gpu"]["memory_bytes"].as_u64().unwrap();
    assert!(memory <= 8 << 30 && memory > 7 << 30, "{memory}");
    assert!(plan["fits"]["gpu"]["batch_size"].as_u64().unwrap() > 1000);
}

#[test]
fn the_doctor_names_the_driver_the_gpu_and_the_library_with_their_paths() {
    let home = Home::ready();
    let ended = succeed(&home, &["doctor"]);
    let folder = cuda_emulator::library_dir().display();
    for line in [
        format!("ok  NVIDIA driver       CUDA 13.0, {folder}/libcuda.so"),
        "ok  GPU                 cuda:0 emulated CUDA device, sm_90, 8.00 GiB".to_owned(),
        format!("ok  cuBLASLt            {folder}/libcublasLt.so"),
        format!("ok  device              {EMULATED}"),
    ] {
        assert!(ended.stdout.contains(&line), "{line} in: {}", ended.stdout);
    }
}

#[test]
fn auto_takes_the_gpu_and_says_why() {
    let home = Home::ready();
    let args = ["finetune", "--device", "auto", "--json"];
    let report = succeed(&home, &args).json();
    assert_eq!(report["device"], EMULATED);
    assert_eq!(report["device_choice"], "it is the first GPU that will do, emulated CUDA device");
}
