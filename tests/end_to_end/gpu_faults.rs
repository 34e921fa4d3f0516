//! What can be wrong with a GPU: a clear error, or the CPU where that was allowed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::gpu::command;
use crate::home::{Ended, Home, read_json, run};

/// A run on the emulated GPU with these variables.
fn finetune(home: &Home, args: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut command = command(home, &[&["finetune"], args].concat());
    command.envs(variables.iter().copied());
    run(command)
}

/// Fails as what is no defect of ours does, and leaves nothing.
#[track_caller]
fn refuses(home: &Home, args: &[&str], variables: &[(&str, &str)], error: &str) {
    let ended = finetune(home, args, variables);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(ended.error(), error);
    assert!(!ended.stderr.contains("panicked at"), "{}", ended.stderr);
    assert_eq!(home.outputs(), [""; 0]);
}

/// Takes the CPU where any device will do, for that reason.
#[track_caller]
fn falls_back(variables: &[(&str, &str)], why: &str) {
    let home = Home::ready();
    let ended = finetune(&home, &["--device", "auto", "--json"], variables);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let report = ended.json();
    assert!(report["device"].as_str().unwrap().starts_with("cpu ("), "{report}");
    assert_eq!(report["device_choice"], why);
}

#[test]
fn a_driver_that_cannot_be_opened_is_named_with_the_reason() {
    let home = Home::ready();
    home.write("libcuda.so.1", "not a library");
    let libraries = home.path("").display().to_string();
    let libraries = libraries.trim_end_matches('/');
    let what = format!("{libraries}/libcuda.so.1 can't be opened: {libraries}/libcuda.so.1: file too short");
    let variables = [("TUNESMITH_CUDA_LIBS", libraries)];
    refuses(
        &home,
        &[],
        &variables,
        &format!(
            "{what}; install the driver (570 or newer), or name the folder of its library with `--cuda-libs`; `--device cpu` \
             trains without a GPU"
        ),
    );
    falls_back(&[("TUNESMITH_CUDA_LIBS", libraries)], &what);
}

#[test]
fn a_driver_that_is_too_old_is_refused_with_the_version_it_takes() {
    let old = [("CUDA_EMULATOR_DRIVER_VERSION", "12040")];
    let what = "the NVIDIA driver knows CUDA 12.4, and this build needs 12.8";
    let error = format!("{what}; install driver 570 or newer; `--device cpu` trains without a GPU");
    refuses(&Home::ready(), &[], &old, &error);
    falls_back(&old, what);
}

#[test]
fn a_gpu_that_is_too_old_is_refused() {
    let old = [("CUDA_EMULATOR_COMPUTE_CAPABILITY", "75")];
    let what = "emulated CUDA device, has compute capability 7.5, and this build needs 8.0 (Ampere) or newer";
    let error = format!("`cuda:0`, {what}; use another GPU; `--device cpu` trains without one");
    refuses(&Home::ready(), &[], &old, &error);
    falls_back(&old, &format!("cuda:0, {what}"));
}

#[test]
fn a_gpu_that_is_not_there_is_refused_with_how_many_are() {
    let error = "there is no `cuda:3`: 1 GPU is visible; name another";
    refuses(&Home::ready(), &["--device", "cuda:3"], &[], error);
}

#[test]
fn hidden_gpus_are_told_apart_from_missing_ones() {
    let hidden = [("CUDA_VISIBLE_DEVICES", "")];
    let what = "no GPU is visible: `CUDA_VISIBLE_DEVICES` is \"\"";
    let error = format!("{what}; unset it or name a GPU in it; `--device cpu` trains without a GPU");
    refuses(&Home::ready(), &[], &hidden, &error);
    falls_back(&hidden, what);
}

#[test]
fn a_word_that_is_no_device_is_refused_with_those_that_are() {
    let ended = Home::ready().run(&["finetune", "--device", "gpu"]);
    let error = "invalid value 'gpu' for '--device <DEVICE>': `gpu` is no device: use `auto`, `cpu`, `cuda`, or `cuda:1` for the \
                 second GPU";
    assert_eq!(ended.code, Some(1));
    assert!(ended.error().starts_with(error), "{}", ended.stderr);
}

#[test]
fn a_gpu_computes_in_bf16_and_auto_takes_the_cpu_for_f32() {
    let error = "`training.precision` is \"f32\": a GPU computes in bf16; use `bf16` or `quantized`, or `--device cpu`";
    refuses(&Home::ready(), &["--precision", "f32"], &[], error);
    falls_back(&[("TUNESMITH_PRECISION", "f32")], "`precision` is f32, and a GPU computes in bf16");
}

#[test]
fn without_cublaslt_our_own_products_train_and_that_is_said() {
    let home = Home::ready();
    let libraries = cuda_emulator::library_dir_without_blas().display().to_string();
    let variables = [("TUNESMITH_CUDA_LIBS", libraries.as_str())];
    let ended = finetune(&home, &["--json"], &variables);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let device = "cuda:0 (emulated CUDA device, sm_90, CUDA 13.0, own products, as cuBLASLt is not found: slower)";
    assert_eq!(ended.json()["device"], device);
    let mut doctor = command(&home, &["doctor"]);
    let ended = run({
        doctor.envs(variables);
        doctor
    });
    let note = "note  cuBLASLt            not found: our own products serve, which are slower";
    let remedy = "-> `pip install nvidia-cublas` has it, as has the CUDA toolkit; name its folder with `--cuda-libs`";
    assert!(ended.stdout.contains(note) && ended.stdout.contains(remedy), "{}", ended.stdout);
}

#[test]
fn a_training_that_the_gpus_memory_does_not_hold_is_refused_before_it_starts() {
    let home = Home::ready();
    // The driver itself takes some; what every run needs beside its batches is 40 MiB.
    let ended = finetune(&home, &["--batch-size", "54"], &[("CUDA_EMULATOR_MEMORY", &(43 << 20).to_string())]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let error = ended.error();
    assert!(error.starts_with("CUDA out of memory. Tried to allocate "), "{error}");
    assert!(error.contains(" MiB are available; `--batch-size ") && error.contains("` would take "), "{error}");
    assert_eq!(home.outputs(), [""; 0]);
}

/// The only folder in `out`, which is unfinished.
fn unfinished(home: &Home) -> PathBuf {
    let [name] = &home.outputs()[..] else { panic!("{:?}", home.outputs()) };
    home.path("out").join(name)
}

#[test]
fn a_gpu_that_is_lost_in_the_middle_of_a_run_leaves_a_checkpoint_that_a_resumed_run_ends_from() {
    let home = Home::ready();
    home.configure("training = { checkpoint_steps = 2 }");
    let whole = finetune(&home, &["--output-dir", "whole"], &[]);
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);

    // The thousandth launch, some steps into the run.
    let lost = finetune(&home, &["--cuda-wait", "true"], &[("CUDA_EMULATOR_FAIL_LAUNCH", "1000:700")]);
    assert_eq!(lost.code, Some(1), "{}", lost.stderr);
    let folder = unfinished(&home);
    let (failure, rest) = lost.error().split_once("; ").unwrap();
    assert!(failure.starts_with("the GPU failed in `") && failure.contains("launch number 1000 fails"), "{failure}");
    let name = folder.strip_prefix(home.path("")).unwrap().display();
    let remedy = format!(
        "the training up to its last checkpoint is in `{name}`; the same command with `--resume` goes on from there"
    );
    assert_eq!(rest, remedy);

    let resumed = finetune(&home, &["--resume", "--json"], &[]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    let report = resumed.json();
    assert!(report["resumed_at"].as_u64().unwrap() >= 2, "{report}");
    let adapter = |folder: &Path| fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let whole = fs::read_dir(home.path("whole")).unwrap().next().unwrap().unwrap().path();
    assert!(adapter(&whole) == adapter(&home.path(report["adapter_path"].as_str().unwrap())));
    assert_eq!(read_json(&whole.join("run.json"))["report"]["steps"], report["steps"]);
}

#[test]
fn a_run_does_not_go_on_on_another_kind_of_device() {
    let home = Home::ready();
    home.configure("training = { checkpoint_steps = 2, precision = \"bf16\" }");
    let lost = finetune(&home, &[], &[("CUDA_EMULATOR_FAIL_LAUNCH", "1000:700")]);
    assert_eq!(lost.code, Some(1), "{}", lost.stderr);
    let resumed = home.run(&["finetune", "--resume"]);
    assert_eq!(resumed.code, Some(1), "{}", resumed.stderr);
    let what = "is of another device: `device` is \"cuda\" there, \"cpu\" here; resume with what it was made with";
    assert!(resumed.error().contains(what), "{}", resumed.stderr);
    assert!(unfinished(&home).is_dir());
}
