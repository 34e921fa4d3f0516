//! An engine that does what a script says, for what no real one does on demand.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use trainer_cuda::method::{Evaluation, MethodMetrics};
use trainer_cuda::trainer::Stopped;

use super::super::tests::job;
use super::*;
use crate::config::Options;
use crate::job::{ADAPTER_DIR, BundleDraft, JobKey, METRICS_FILE, Produced, RESULT_FILE, sha256_of};
use crate::remote::{Capabilities, LogChunk, Resources};

/// What each look gives, one after another; what is handed over where the output is fetched.
#[derive(Default)]
struct Script {
    looks: VecDeque<Result<JobState, RemoteError>>,
    outputs: VecDeque<Output>,
    /// An attempt that the engine has already, without having said so.
    has: Option<JobId>,
    /// How often it is at other work when a job is handed in.
    busy: usize,
    calls: Vec<String>,
}

#[derive(Clone, Copy)]
enum Output {
    Whole,
    OneByteOff,
    OfAnotherJob,
    WithoutResult,
    /// Nothing is there.
    Removed,
}

struct Engine {
    script: Rc<RefCell<Script>>,
    digest: String,
}

fn handle(id: &JobId) -> JobHandle {
    JobHandle { id: id.clone(), native: format!("native-{id}"), submitted_at: Timestamp::now() }
}

impl TrainingBackend for Engine {
    fn describe(&self) -> String {
        "a scripted engine".to_owned()
    }

    fn probe(&self, _: &Resources) -> Result<Capabilities, RemoteError> {
        Ok(Capabilities::default())
    }

    fn submit(&self, attempt: &Submission<'_>) -> Result<JobHandle, RemoteError> {
        let mut script = self.script.borrow_mut();
        script.calls.push(format!("submit {}", attempt.id.attempt));
        match script.busy.checked_sub(1) {
            Some(busy) => {
                script.busy = busy;
                let (engine, message) = (self.describe(), "it is at job `x-1`".to_owned());
                Err(RemoteError::Busy { engine, message, after: Some(Duration::ZERO) })
            }
            None => Ok(handle(&attempt.id)),
        }
    }

    fn find(&self, id: &JobId) -> Result<Option<JobHandle>, RemoteError> {
        Ok(self.script.borrow().has.as_ref().filter(|has| *has == id).map(handle))
    }

    fn status(&self, handle: &JobHandle) -> Result<JobStatus, RemoteError> {
        let look = self.script.borrow_mut().looks.pop_front().expect("the script is over");
        match look {
            Err(RemoteError::NotFound { engine, .. }) => Err(RemoteError::NotFound { engine, id: handle.id.clone() }),
            look => Ok(JobStatus { state: look?, heartbeat: None }),
        }
    }

    fn logs(&self, _: &JobHandle, from: u64) -> Result<LogChunk, RemoteError> {
        let bytes = if from == 0 { b"trained".to_vec() } else { Vec::new() };
        Ok(LogChunk { bytes, next: 7 })
    }

    fn cancel(&self, handle: &JobHandle) -> Result<(), RemoteError> {
        self.script.borrow_mut().calls.push(format!("cancel {}", handle.id.attempt));
        Ok(())
    }

    fn fetch(&self, handle: &JobHandle, into: &Path) -> Result<(), RemoteError> {
        let mut script = self.script.borrow_mut();
        script.calls.push(format!("fetch {}", handle.id.attempt));
        let output = script.outputs.pop_front().expect("the script has no output");
        if let Output::Removed = output {
            let (what, place) = (RESULT_FILE.to_owned(), "the store".to_owned());
            return Err(RemoteError::NoArtefact { id: handle.id.clone(), what, place });
        }
        write_output(into, output, &self.digest, handle.id.attempt);
        Ok(())
    }

    fn cleanup(&self, id: &JobId) -> Result<(), RemoteError> {
        self.script.borrow_mut().calls.push(format!("cleanup {}", id.attempt));
        Ok(())
    }
}

fn write_output(into: &Path, output: Output, digest: &str, attempt: u32) {
    let adapter = into.join(ADAPTER_DIR);
    fs::create_dir_all(&adapter).unwrap();
    let bytes = [1.0f32, 2.0].map(f32::to_le_bytes).concat();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &bytes).unwrap();
    let weights = safetensors::serialize([("a.lora_A.weight", view)], None).unwrap();
    let path = adapter.join("adapter_model.safetensors");
    fs::write(&path, weights).unwrap();
    fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    fs::write(into.join(METRICS_FILE), "").unwrap();
    let names = ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", METRICS_FILE];
    let files: BTreeMap<_, _> =
        names.iter().map(|name| ((*name).to_owned(), sha256_of(&into.join(name)).unwrap())).collect();
    if let Output::OneByteOff = output {
        let mut weights = fs::read(&path).unwrap();
        *weights.last_mut().unwrap() ^= 1;
        fs::write(&path, weights).unwrap();
    }
    let digest = if let Output::OfAnotherJob = output { "f".repeat(64) } else { digest.to_owned() };
    let produced = Produced {
        lora: true,
        device: "cpu".to_owned(),
        device_choice: None,
        held_out: Some(
            [1.0, 0.5]
                .map(|loss| Evaluation {
                    loss,
                    n_examples: 1,
                    n_labels: 1,
                    metrics: MethodMetrics::Sft { exact_match: Some(0.5) },
                })
                .into(),
        ),
        final_train_loss: 0.5,
        steps: 3,
        stopped: Stopped::Finished,
        best_step: None,
        resumed_at: None,
        before_training_s: 0.0,
        training_s: 1.0,
        tokens_per_second: 1.0,
        peak_rss_bytes: 1,
    };
    let result = JobResult { digest, attempt, produced, files, version: "0".to_owned() };
    if !matches!(output, Output::WithoutResult) {
        fs::write(into.join(RESULT_FILE), serde_json::to_vec(&result).unwrap()).unwrap();
    }
}

/// A job, its engine, and where it is noted.
struct Stage {
    _root: tempfile::TempDir,
    script: Rc<RefCell<Script>>,
    backend: Persistent,
    config: RemoteConfig,
    jobs: JobStore,
    bundle: Bundle,
}

impl Stage {
    fn new(looks: impl IntoIterator<Item = Result<JobState, RemoteError>>) -> Self {
        Self::with("", looks)
    }

    fn with(settings: &str, looks: impl IntoIterator<Item = Result<JobState, RemoteError>>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let jobs = JobStore::beside(&root.path().join("approvals.sqlite"));
        let program = root.path().join("program");
        fs::write(&program, "#!/bin/sh").unwrap();
        let mut draft = BundleDraft::new(jobs.folder()).unwrap();
        draft.write("dataset.jsonl", b"{}\n").unwrap();
        let bundle = draft.finish(job(), &program).unwrap();
        let script = Script { looks: looks.into_iter().collect(), ..Script::default() };
        let script = Rc::new(RefCell::new(script));
        let engine = Engine { script: Rc::clone(&script), digest: bundle.digest.clone() };
        let text = format!("backend = \"remote\"\nbackend_provider = \"ray\"\n[remote]\n{settings}");
        let config = RemoteConfig::new(&toml::from_str::<Options>(&text).unwrap()).unwrap();
        let backend = Persistent::new(Box::new(engine));
        Self { _root: root, script, backend, config, jobs, bundle }
    }

    fn outputs(self, outputs: impl IntoIterator<Item = Output>) -> Self {
        self.script.borrow_mut().outputs = outputs.into_iter().collect();
        self
    }

    fn run(&self) -> Result<Done, RemoteError> {
        self.run_with(&Progress::silent())
    }

    fn run_with(&self, progress: &Progress) -> Result<Done, RemoteError> {
        Drive { backend: &self.backend, config: &self.config, jobs: &self.jobs, progress }.run(&self.bundle)
    }

    fn go_on(&self, looks: impl IntoIterator<Item = Result<JobState, RemoteError>>) {
        self.script.borrow_mut().looks = looks.into_iter().collect();
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.script.borrow_mut().calls)
    }

    fn record(&self) -> crate::remote::JobRecord {
        self.jobs.get(self.bundle.key.as_str()).unwrap()
    }
}

fn failed(kind: FailureKind, message: &str) -> Result<JobState, RemoteError> {
    Ok(JobState::Failed(Failure { kind, exit_code: None, message: message.to_owned() }))
}

const RUNNING: Result<JobState, RemoteError> = Ok(JobState::Running);
const DONE: Result<JobState, RemoteError> = Ok(JobState::Succeeded);

#[test]
fn a_job_that_is_done_is_fetched_cleaned_up_and_not_done_again() {
    let stage = Stage::new([RUNNING, DONE]).outputs([Output::Whole]);
    let done = stage.run().unwrap();
    assert_eq!(stage.calls(), ["submit 1", "fetch 1", "cleanup 1"]);
    assert_eq!((done.attempts, done.result.produced.steps), (1, 3));
    let record = stage.record();
    assert_eq!((record.state, record.attempts.len()), (RecordState::Finished, 1));
    let log = stage.jobs.folder_of(&stage.bundle.key).join("log-1.txt");
    assert_eq!(fs::read_to_string(log).unwrap(), "trained");

    let again = stage.run().unwrap();
    assert_eq!(again.result, done.result);
    assert_eq!(stage.calls(), Vec::<String>::new());
}

#[test]
fn a_job_whose_machine_goes_away_is_tried_again_and_the_record_has_both() {
    let stage = Stage::new([RUNNING, failed(FailureKind::NodeLost, "node n2 is down"), RUNNING, DONE]);
    let stage = stage.outputs([Output::Whole]);
    assert_eq!(stage.run().unwrap().attempts, 2);
    assert_eq!(stage.calls(), ["submit 1", "submit 2", "fetch 2", "cleanup 2"]);
    let told: Vec<_> = stage.record().attempts.into_iter().map(|attempt| attempt.failure.map(|f| f.message)).collect();
    assert_eq!(told, [Some("node n2 is down".to_owned()), None]);
}

#[test]
fn a_job_that_the_engine_has_forgotten_is_tried_again() {
    let lost = RemoteError::NotFound { engine: "ray".to_owned(), id: JobKey::new("x", "0").attempt(1) };
    let stage = Stage::new([RUNNING, Err(lost), DONE]).outputs([Output::Whole]);
    assert_eq!(stage.run().unwrap().attempts, 2);
    assert_eq!(stage.calls(), ["submit 1", "submit 2", "fetch 2", "cleanup 2"]);
}

#[test]
fn bad_input_is_tried_once_and_the_trainers_words_are_told() {
    let stage = Stage::new([failed(FailureKind::BadInput, "line 3: no training record")]);
    let told = stage.run().unwrap_err().to_string();
    assert_eq!(told, format!("job `{}-1` failed (bad input): line 3: no training record", stage.bundle.key));
    assert_eq!(stage.calls(), ["submit 1"]);
    assert!(matches!(stage.record().state, RecordState::Failed { .. }));

    // Somebody has mended it and tries again.
    stage.go_on([DONE]);
    stage.script.borrow_mut().outputs = [Output::Whole].into();
    assert_eq!(stage.run().unwrap().attempts, 2);
}

#[test]
fn where_a_process_left_nothing_but_its_exit_code_its_last_words_are_told() {
    let killed = |message: &str| Ok(JobState::Failed(Failure::of_exit_code(74, message)));
    let stage = Stage::new([killed("Error, exit code 74 of pod `x`")]);
    let told = stage.run().unwrap_err().to_string();
    let end = "failed (input or output): Error, exit code 74 of pod `x`; its log ends with `trained`";
    assert_eq!(told, format!("job `{}-1` {end}", stage.bundle.key));
    // Its own words are not told twice.
    let stage = Stage::new([killed("trained")]);
    assert!(stage.run().unwrap_err().to_string().ends_with("failed (input or output): trained"));
}

#[test]
fn attempts_end_and_the_same_command_makes_as_many_again() {
    let lost = || failed(FailureKind::Preempted, "spot instance reclaimed");
    let stage = Stage::with("max_attempts = 2", [lost(), lost()]);
    let told = stage.run().unwrap_err().to_string();
    assert_eq!(
        told,
        format!(
            "job `{}-2` failed (preempted): spot instance reclaimed; 2 attempts were made (`remote.max_attempts`), and the same \
             command makes more",
            stage.bundle.key
        )
    );
    stage.go_on([lost(), lost()]);
    assert!(stage.run().unwrap_err().to_string().starts_with(&format!("job `{}-4` failed", stage.bundle.key)));
    assert_eq!(stage.calls(), ["submit 1", "submit 2", "submit 3", "submit 4"]);
}

#[test]
fn another_attempt_that_could_cost_too_much_is_not_made() {
    let settings = "max_cost_usd = 2.0\nmax_attempts = 1\nprices = { A10G = 1.0 }";
    let stage = Stage::with(settings, [failed(FailureKind::NodeLost, "gone")]);
    let stage =
        Stage { config: RemoteConfig { max_attempts: 5, max_cost_usd: Some(1.0), ..stage.config.clone() }, ..stage };
    let told = stage.run().unwrap_err().to_string();
    assert!(told.contains("gone; another attempt is not made: this could cost 1.03 USD"), "{told}");
    assert_eq!(stage.calls(), ["submit 1"]);
}

#[test]
fn a_job_that_waits_too_long_for_a_machine_is_cancelled() {
    let queued = || Ok(JobState::Queued { reason: Some("Resources".to_owned()) });
    let stage = Stage::new([queued(), queued(), Ok(JobState::Cancelled)]);
    let config = RemoteConfig { queue_timeout: Duration::ZERO, ..stage.config.clone() };
    let stage = Stage { config, ..stage };
    let told = stage.run().unwrap_err().to_string();
    assert!(
        told.ends_with(
            "failed (can't be scheduled): it waited 0 s for a machine (Resources); raise `remote.queue_timeout`, or ask for less"
        ),
        "{told}"
    );
    assert_eq!(stage.calls(), ["submit 1", "cancel 1"]);
}

#[test]
fn a_submission_whose_answer_never_came_is_found_and_not_made_twice() {
    let stage = Stage::new([DONE]).outputs([Output::Whole]);
    stage.script.borrow_mut().has = Some(stage.bundle.key.attempt(1));
    assert_eq!(stage.run().unwrap().attempts, 1);
    assert_eq!(stage.calls(), ["fetch 1", "cleanup 1"]);
}

#[test]
fn an_attempt_whose_output_is_gone_since_our_records_were_lost_is_followed_by_another() {
    let stage = Stage::new([DONE, DONE]).outputs([Output::Removed, Output::Whole]);
    stage.script.borrow_mut().has = Some(stage.bundle.key.attempt(1));
    assert_eq!(stage.run().unwrap().attempts, 2);
    assert_eq!(stage.calls(), ["fetch 1", "submit 2", "fetch 2", "cleanup 2"]);
}

#[test]
fn a_job_of_ours_that_left_nothing_costs_no_second_attempt_before_somebody_asks_for_it() {
    let stage = Stage::new([DONE, DONE]).outputs([Output::Removed, Output::Whole]);
    let told = stage.run().unwrap_err().to_string();
    assert_eq!(told, format!("job `{}-1` left no `result.json` in the store", stage.bundle.key));
    assert_eq!(stage.calls(), ["submit 1", "fetch 1"]);
    assert!(matches!(stage.record().state, RecordState::Failed { .. }));
    assert_eq!(stage.run().unwrap().attempts, 2);
}

#[test]
fn an_engine_that_is_at_other_work_is_waited_for_as_long_as_a_queue_is() {
    let stage = Stage::new([DONE]).outputs([Output::Whole]);
    stage.script.borrow_mut().busy = 2;
    assert_eq!(stage.run().unwrap().attempts, 1);
    assert_eq!(stage.calls(), ["submit 1", "submit 1", "submit 1", "fetch 1", "cleanup 1"]);

    let stage = Stage::new([DONE]).outputs([Output::Whole]);
    stage.script.borrow_mut().busy = 2;
    let impatient = RemoteConfig { queue_timeout: Duration::ZERO, ..stage.config.clone() };
    let stage = Stage { config: impatient, ..stage };
    let told = stage.run().unwrap_err().to_string();
    assert_eq!(
        told,
        "a scripted engine takes no job now: it is at job `x-1`; nothing was submitted, and the same command tries again, for as \
         long as `remote.queue_timeout`"
    );
    // It does, and as the same attempt.
    let patient = RemoteConfig { queue_timeout: Duration::from_secs(60), ..stage.config.clone() };
    assert_eq!(Stage { config: patient, ..stage }.run().unwrap().attempts, 1);
}

#[test]
fn a_host_that_is_interrupted_leaves_the_job_alone_and_takes_it_up_again() {
    static STOP: AtomicBool = AtomicBool::new(true);
    let stage = Stage::new([RUNNING]).outputs([Output::Whole]);
    let told = stage.run_with(&Progress::silent().stopped_by(&STOP)).unwrap_err().to_string();
    let key = &stage.bundle.key;
    assert_eq!(
        told,
        format!(
            "job `{key}` goes on at a scripted engine: the same command, or `tunesmith jobs wait {key}`, takes it up again; \
             `tunesmith jobs cancel {key}` ends it"
        )
    );
    stage.go_on([RUNNING, DONE]);
    assert_eq!(stage.run().unwrap().attempts, 1);
    assert_eq!(stage.calls(), ["submit 1", "fetch 1", "cleanup 1"]);
}

#[test]
fn a_cancelled_job_is_no_failure_and_starts_anew_where_it_is_asked_for() {
    let stage = Stage::new([RUNNING, Ok(JobState::Cancelled)]);
    assert!(stage.run().unwrap_err().to_string().contains("was cancelled"));
    assert_eq!(stage.record().state, RecordState::Cancelled);
    stage.go_on([DONE]);
    stage.script.borrow_mut().outputs = [Output::Whole].into();
    assert_eq!(stage.run().unwrap().attempts, 2);
}

#[test]
fn an_output_that_comes_damaged_is_fetched_once_more_and_never_taken() {
    let stage = Stage::new([DONE]).outputs([Output::OneByteOff, Output::Whole]);
    stage.run().unwrap();
    assert_eq!(stage.calls(), ["submit 1", "fetch 1", "fetch 1", "cleanup 1"]);

    let twice = Stage::new([DONE]).outputs([Output::OneByteOff, Output::OneByteOff]);
    let told = twice.run().unwrap_err().to_string();
    assert!(told.contains("left is damaged: `adapter/adapter_model.safetensors` has SHA-256 "), "{told}");
    // It is there still, and can be fetched by the next command.
    assert_eq!(twice.calls(), ["submit 1", "fetch 1", "fetch 1"]);

    let other = Stage::new([DONE]).outputs([Output::OfAnotherJob, Output::OfAnotherJob]);
    assert!(other.run().unwrap_err().to_string().contains("`result.json` is of another job"));
    let none = Stage::new([DONE]).outputs([Output::WithoutResult]);
    assert!(none.run().unwrap_err().to_string().contains("left no `result.json` in"));
}

#[test]
fn waiting_for_a_job_that_failed_or_was_cancelled_begins_no_attempt() {
    let failed = Stage::new([failed(FailureKind::BadInput, "line 3: no training record")]);
    failed.run().unwrap_err();
    let told = failed.record().check_goes_on().unwrap_err().to_string();
    let end = "failed (bad input): line 3: no training record; the command that submitted it tries again";
    assert_eq!(told, format!("job `{}-1` {end}", failed.bundle.key));

    let cancelled = Stage::new([RUNNING, Ok(JobState::Cancelled)]);
    cancelled.run().unwrap_err();
    let told = cancelled.record().check_goes_on().unwrap_err().to_string();
    assert!(told.starts_with(&format!("job `{}-1` was cancelled; ", cancelled.bundle.key)), "{told}");

    let done = Stage::new([DONE]).outputs([Output::Whole]);
    done.run().unwrap();
    done.record().check_goes_on().unwrap();
}

#[test]
fn two_processes_never_attend_one_job() {
    let stage = Stage::new([DONE]).outputs([Output::Whole]);
    let held = stage.jobs.attend(&stage.bundle, &stage.config, "here").unwrap();
    let told = stage.run().unwrap_err().to_string();
    let key = &stage.bundle.key;
    assert_eq!(told, format!("job `{key}` is attended by another process of this host; wait for it, or end that one"));
    drop(held);
    stage.run().unwrap();
}
