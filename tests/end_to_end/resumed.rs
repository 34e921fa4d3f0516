//! Trainings that are stopped and go on: to the very bytes of one that was not.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::home::{Home, run};
use crate::spans::{Verdict, lines, span};

/// Steps of a run below: 54 examples in batches of 4 are 14 steps, 20 times.
const STEPS: usize = 280;

/// A run of [`STEPS`] steps that saves its state every 7, and an adapter at its end.
fn home(method: &str) -> Home {
    let home = Home::ready();
    let verdict = || if method == "dpo" { Verdict::Corrected("archive_agent") } else { Verdict::Approved };
    home.write("traces.jsonl", lines((0..60).map(|index| span(index, verdict()))));
    home.write(
        "long.toml",
        fs::read_to_string(home.path("tunesmith.toml")).unwrap().replace("epochs = 1", "epochs = 20")
            + "learning_rate = 1e-3\ntraining = { checkpoint_steps = 7, early_stopping_patience = 100 }\n",
    );
    home
}

fn args<'a>(method: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["finetune", "--config", "long.toml", "--method", method], more].concat()
}

/// The adapter of a run from start to end.
fn uninterrupted(home: &Home, method: &str) -> Vec<u8> {
    let ended = home.run(&args(method, &["--output-dir", "whole"]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let folder = fs::read_dir(home.path("whole")).unwrap().next().unwrap().unwrap().path();
    fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

/// Steps in the metrics of the only folder in `out`.
fn steps_done(home: &Home) -> usize {
    let Some(folder) = home.outputs().first().map(|name| home.path("out").join(name)) else { return 0 };
    fs::read_to_string(folder.join("metrics.jsonl")).map_or(0, |text| text.matches("\"event\":\"step\"").count())
}

/// Starts a run and kills it `delay` after its `step`th step, by a signal that no program sees.
fn kill_after(home: &Home, method: &str, more: &[&str], step: usize, delay: Duration) {
    let mut command = home.command(&args(method, more));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while steps_done(home) < step {
        assert!(child.try_wait().unwrap().is_none(), "it ended before step {step}");
        assert!(start.elapsed() < Duration::from_secs(120), "no step {step} in two minutes");
        std::thread::sleep(Duration::from_micros(500));
    }
    std::thread::sleep(delay);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9), "it ended by itself");
}

/// Goes on to the end and returns the adapter's folder.
fn resume(home: &Home, method: &str) -> PathBuf {
    let ended = home.run(&args(method, &["--resume"]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let [name] = &home.outputs()[..] else { panic!("{:?}", home.outputs()) };
    assert!(name.starts_with(&format!("{method}_routing_")), "{name}");
    home.path("out").join(name)
}

/// xorshift64*: the moments are the same in every run of the tests.
fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
}

/// Kills a run at `n` random moments, each in a run of its own, and compares the resumed adapters with an
/// uninterrupted one.
fn kills_and_resumes(method: &str, n: usize, seed: u64) {
    let home = home(method);
    let whole = uninterrupted(&home, method);
    let mut state = seed;
    for moment in 0..n {
        // From the first checkpoint on; 20 steps are left, so that none ends before it is killed.
        let step = 8 + random(&mut state) as usize % (STEPS - 28);
        let delay = Duration::from_micros(random(&mut state) % 5000);
        kill_after(&home, method, &[], step, delay);
        let folder = resume(&home, method);
        let adapter = fs::read(folder.join("adapter_model.safetensors")).unwrap();
        assert!(adapter == whole, "moment {moment}: killed {delay:?} after step {step}, the adapter is another");
        let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        assert_eq!(metrics.matches("\"event\":\"step\"").count(), STEPS, "moment {moment}");
        assert_eq!(metrics.matches("\"event\":\"resumed\"").count(), 1, "moment {moment}");
        fs::remove_dir_all(home.path("out")).unwrap();
    }
}

#[test]
fn sft_goes_on_to_the_same_bytes_after_kill_9() {
    kills_and_resumes("sft", 3, 1);
}

#[test]
fn dpo_goes_on_to_the_same_bytes_after_kill_9() {
    kills_and_resumes("dpo", 3, 2);
}

#[test]
#[ignore = "40 s; tests/kill_resume.sh runs it"]
fn sft_goes_on_to_the_same_bytes_after_kill_9_at_20_moments() {
    kills_and_resumes("sft", 20, 3);
}

#[test]
#[ignore = "40 s; tests/kill_resume.sh runs it"]
fn dpo_goes_on_to_the_same_bytes_after_kill_9_at_20_moments() {
    kills_and_resumes("dpo", 20, 4);
}

#[test]
fn a_resumed_run_that_is_killed_too_goes_on() {
    let home = home("sft");
    let whole = uninterrupted(&home, "sft");
    kill_after(&home, "sft", &[], 50, Duration::ZERO);
    kill_after(&home, "sft", &["--resume"], 150, Duration::ZERO);
    assert!(fs::read(resume(&home, "sft").join("adapter_model.safetensors")).unwrap() == whole);
}

/// The only folder in `out`, and how errors name its checkpoint.
fn left(home: &Home) -> (String, String) {
    let [name] = &home.outputs()[..] else { panic!("{:?}", home.outputs()) };
    (name.clone(), format!("the checkpoint `out/{name}/checkpoint/state.safetensors` is of"))
}

const REMEDY: &str = "; resume with what it was made with, or remove it to start anew";

/// Exit code 1 with this error, and the stopped run as it was.
#[track_caller]
fn refuses_to_resume(home: &Home, more: &[&str], error: &str) {
    let before = home.outputs();
    let ended = home.run(&[&args("sft", &["--resume"]), more].concat());
    assert_eq!((ended.code, ended.error()), (Some(1), error));
    assert_eq!(home.outputs(), before);
}

#[test]
fn a_checkpoint_of_another_configuration_base_or_data_is_refused_by_name() {
    let home = home("sft");
    kill_after(&home, "sft", &[], 20, Duration::ZERO);
    let (_, checkpoint) = left(&home);
    refuses_to_resume(
        &home,
        &["--learning-rate", "1e-4", "--lora-rank", "4"],
        &format!(
            "{checkpoint} another configuration: `learning_rate` is 0.001 there, 0.0001 here, `lora.rank` is 8 there, 4 \
             here{REMEDY}"
        ),
    );

    let weights = home.read("model/model.safetensors");
    let mut other = weights.clone();
    let last = other.len() - 1;
    other[last] ^= 1; // the smallest bit of a norm's exponent, or near it: another model
    home.write("model/model.safetensors", other);
    refuses_to_resume(&home, &[], &format!("{checkpoint} another base model{REMEDY}"));
    home.write("model/model.safetensors", weights);

    home.write("more.jsonl", lines([span(60, Verdict::Approved)]));
    refuses_to_resume(&home, &["--import", "more.jsonl"], &format!("{checkpoint} other training data{REMEDY}"));
}

#[test]
fn where_no_run_was_stopped_there_is_nothing_to_resume() {
    let home = home("sft");
    refuses_to_resume(
        &home,
        &[],
        "no run `sft_routing` can be resumed in `out`: no run was stopped there after its first checkpoint; start one \
         without `--resume`",
    );
}

#[test]
fn a_new_run_leaves_a_stopped_one_alone_and_tells_of_it() {
    let home = home("sft");
    kill_after(&home, "sft", &[], 20, Duration::ZERO);
    let (stopped, _) = left(&home);
    let ended = home.run(&["finetune"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let warning = format!(
        "WARN `out/{stopped}` is a run that was stopped: the same command with `--resume` goes on from its last \
         checkpoint; remove the folder to discard it\n"
    );
    assert!(ended.stderr.contains(&warning), "{}", ended.stderr);
    assert_eq!(home.outputs().len(), 2);
    assert!(home.outputs().contains(&stopped), "{:?}", home.outputs());
}

#[test]
fn an_interrupted_training_goes_on_to_the_same_bytes() {
    let home = home("sft");
    let whole = uninterrupted(&home, "sft");
    let mut command = home.command(&args("sft", &[]));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while steps_done(&home) < 20 {
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: a plain system call on a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) }, 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let (folder, _) = left(&home);
    let error = format!(
        "error: interrupted: the training so far is in `out/{folder}`; the same command with `--resume` goes on from there\n"
    );
    assert!(String::from_utf8_lossy(&output.stderr).ends_with(&error), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(resume(&home, "sft").join("adapter_model.safetensors")).unwrap() == whole);
}

#[test]
fn a_disk_that_is_full_while_saving_leaves_the_checkpoint_before() {
    let home = home("sft");
    let whole = uninterrupted(&home, "sft");
    kill_after(&home, "sft", &[], 20, Duration::ZERO);
    let (folder, _) = left(&home);
    let state = format!("out/{folder}/checkpoint/state.safetensors");
    let before = home.read(&state);

    let mut command = home.command(&args("sft", &["--resume"]));
    // No file may grow beyond half of a checkpoint.
    let limit = libc::rlimit { rlim_cur: before.len() as u64 / 2, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: between fork and exec the closure makes two system calls that neither allocate nor lock.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN); // a write fails instead
            match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        })
    };
    let ended = run(command);
    assert_eq!(
        (ended.code, ended.error()),
        (Some(1), format!("cannot write `{state}`: File too large (os error 27)").as_str())
    );
    assert!(home.read(&state) == before, "the checkpoint is another");
    assert_eq!(
        fs::read_dir(home.path(&state).parent().unwrap()).unwrap().count(),
        1,
        "a part of a checkpoint was left"
    );
    assert!(fs::read(resume(&home, "sft").join("adapter_model.safetensors")).unwrap() == whole);
}
