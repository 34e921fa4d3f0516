//! Every call to an engine, and everything that can become of a request: whether the host goes on, or says what happened; and
//! that nothing is done twice. `tests/remote/FAULTS.md` is what this finds; TUNESMITH_WRITE_FAULTS=1 writes it.

use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tunesmith::job::Bundle;
use tunesmith::progress::Progress;
use tunesmith::remote::{Drive, FETCHED, JobHandle, JobState, JobStore, Persistent, RemoteError, TrainingBackend};

use crate::faulty_line::{Fault, Line};
use crate::home::{Home, repository};
use crate::worker::{
    Bundles, Working, at_step, bundles, ended, host, on_cpu, point, quietly, submission, submit, wait,
};

/// Seconds that a client of the table waits for an answer.
const TIMEOUT_S: u32 = 1;

const FAULTS: [(Fault, &str); 11] = [
    (Fault::Refused, "connection refused"),
    (Fault::ResetBefore, "reset before it is forwarded"),
    (Fault::AnswerLost, "reset after it is done"),
    (Fault::Status(500, None), "500"),
    (Fault::Status(503, Some(1)), "503, Retry-After"),
    (Fault::Status(429, Some(1)), "429, Retry-After"),
    (Fault::Status(401, None), "401"),
    (Fault::Status(404, None), "404 of another server"),
    (Fault::Hang, "no answer"),
    (Fault::Truncated, "half an answer"),
    (Fault::Garbage, "another's page"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Probe,
    Ask,
    Find,
    Status,
    Logs,
    Fetch,
    Cleanup,
    Submit,
    Cancel,
}

/// In the order in which they are tried.
const CALLS: [(Call, &str, &str); 9] = [
    (Call::Probe, "probe", "GET /v1/worker"),
    (Call::Ask, "submit: may it?", "PUT * empty"),
    (Call::Find, "find", "GET /v1/jobs/"),
    (Call::Status, "status", "GET /v1/jobs/"),
    (Call::Logs, "logs", "GET /v1/jobs/*empty"),
    (Call::Fetch, "fetch", "GET /v1/jobs/*empty"),
    (Call::Cleanup, "cleanup", "DELETE /v1/jobs/"),
    (Call::Submit, "submit: the bundle", "PUT * full"),
    (Call::Cancel, "cancel", "POST /v1/jobs/"),
];

/// A worker, a client whose line to it fails, and one whose line does not.
struct Bench<'a> {
    bundles: &'a Bundles,
    working: Working,
    line: Arc<Line>,
    client: Persistent,
    direct: Box<dyn TrainingBackend>,
    fault: Fault,
}

/// What became of each call under one fault.
fn column(bundles: &Bundles, fault: Fault) -> Vec<Result<(), String>> {
    let working = Working::start();
    let line = Arc::new(Line::to(&working.serving.address));
    let client = Persistent::new(working.client(&line.url, TIMEOUT_S));
    let direct = working.direct();
    let mut bench = Bench { bundles, working, line, client, direct, fault };
    CALLS.iter().map(|(call, name, pattern)| bench.cell(*call, name, pattern)).collect()
}

impl Bench<'_> {
    /// One call under the fault, and what it has left.
    fn cell(&mut self, call: Call, name: &str, pattern: &str) -> Result<(), String> {
        let bundles = self.bundles;
        let (short, long) = (&bundles.short, &bundles.long);
        let bundle = if call == Call::Cancel { long } else { short };
        let id = bundle.key.attempt(1);
        let handle = self.direct.find(&id).unwrap();
        match call {
            Call::Probe | Call::Ask => assert_eq!(handle, None),
            Call::Submit => {
                if let Some(handle) = &handle {
                    self.direct.cleanup(&handle.id).unwrap();
                }
            }
            Call::Cancel => at_step(&*self.direct, &submit(&*self.direct, long, 1).unwrap(), 0),
            _ => assert!(handle.is_some(), "{name}: there is no job"),
        }
        let before = self.working.begun(&id);
        let handle = self.direct.find(&id).unwrap();

        self.line.arm(self.fault, pattern);
        if self.fault == Fault::Refused {
            self.line.mend_soon();
        }
        let outcome = self.call(call, bundle, handle.as_ref());
        assert!(
            self.line.was_met(),
            "{name}, {:?}: no request met the fault; there were {:?}",
            self.fault,
            self.line.seen()
        );

        let what = format!("{name}, {:?}", self.fault);
        match call {
            Call::Probe => assert_eq!(self.working.running(), None, "{what}"),
            Call::Ask | Call::Submit => {
                // What was refused was not begun: the same command does it.
                let handle = match (&outcome, self.direct.find(&id).unwrap()) {
                    (_, Some(handle)) => handle,
                    (Ok(()), None) => panic!("{what}: it says that it was submitted"),
                    (Err(_), None) => submit(&*self.direct, bundle, 1).unwrap(),
                };
                assert_eq!(ended(&*self.direct, &handle), JobState::Succeeded, "{what}");
                assert_eq!(self.working.begun(&id), before + 1, "{what}: trained twice");
                assert_eq!(self.working.attempts(&id), ["1"], "{what}");
            }
            Call::Cancel => {
                // Where it was not, it goes on, and the next does it.
                if let (Err(_), JobState::Running) =
                    (&outcome, self.direct.status(handle.as_ref().unwrap()).unwrap().state)
                {
                    self.direct.cancel(handle.as_ref().unwrap()).unwrap();
                }
                assert_eq!(ended(&*self.direct, handle.as_ref().unwrap()), JobState::Cancelled, "{what}");
                wait("an idle worker", || self.working.running().is_none().then_some(()));
                assert_eq!(self.working.attempts(&id), ["1"], "{what}");
            }
            Call::Cleanup => assert_eq!(self.working.job(&id).exists(), outcome.is_err() && self.was_kept(), "{what}"),
            _ => {
                assert_eq!(self.direct.status(handle.as_ref().unwrap()).unwrap().state, JobState::Succeeded, "{what}");
                assert_eq!(self.working.begun(&id), before, "{what}: trained twice");
            }
        }
        outcome.map_err(|error| {
            assert!(!error.contains(&fs::read_to_string(self.working.token_file()).unwrap()), "{what}: the token");
            error.replace(&self.line.url, "URL").replace(&id.to_string(), "JOB")
        })
    }

    /// Whether a cleanup that failed had not come through.
    fn was_kept(&self) -> bool {
        self.fault != Fault::Garbage
    }

    fn call(&self, call: Call, bundle: &Bundle, handle: Option<&JobHandle>) -> Result<(), String> {
        let client = &self.client;
        let told = |error: RemoteError| error.to_string();
        match call {
            Call::Probe => client.probe(&on_cpu()).map(drop).map_err(told),
            Call::Ask | Call::Submit => {
                let handle = client.submit(&submission(bundle, &on_cpu(), 1)).map_err(told)?;
                assert_eq!(handle.id, bundle.key.attempt(1));
                Ok(())
            }
            Call::Find => {
                let found = client.find(&bundle.key.attempt(1)).map_err(told)?;
                assert_eq!(found.map(|found| found.id).as_ref(), handle.map(|handle| &handle.id));
                Ok(())
            }
            Call::Status => {
                let status = client.status(handle.unwrap()).map_err(told)?;
                assert_eq!(status.state, JobState::Succeeded);
                Ok(())
            }
            Call::Logs => {
                let chunk = client.logs(handle.unwrap(), 0).map_err(told)?;
                assert_eq!(chunk, self.direct.logs(handle.unwrap(), 0).unwrap());
                assert!(!chunk.bytes.is_empty());
                Ok(())
            }
            Call::Fetch => {
                let place = tempfile::tempdir().unwrap();
                let (ours, theirs) = (place.path().join("ours"), place.path().join("theirs"));
                fs::create_dir(&theirs).unwrap();
                self.direct.fetch(handle.unwrap(), &theirs).unwrap();
                client.fetch(handle.unwrap(), &ours).map_err(told)?;
                assert_eq!(tree(&ours), tree(&theirs));
                assert!(tree(&ours).iter().any(|(name, _)| name == "adapter/adapter_model.safetensors"));
                Ok(())
            }
            Call::Cleanup => client.cleanup(&handle.unwrap().id).map_err(told),
            Call::Cancel => client.cancel(handle.unwrap()).map_err(told),
        }
    }
}

/// Every file below a folder, with its bytes.
fn tree(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                    files.push((name, fs::read(path).unwrap()));
                }
            }
        }
    }
    files.sort();
    files
}

/// As Markdown; errors are told once, by their numbers.
fn table(columns: &[Vec<Result<(), String>>]) -> String {
    let mut errors: Vec<&str> = Vec::new();
    let mut text = String::from(
        "# What becomes of a call to a worker\n\n\
         Made by `tests/end_to_end/remote_faults.rs`: a `tunesmith serve --worker`, a client of it, and between them a line that \
         fails once, at one request. `ok`: the call is repeated, or its answer found again, and the host goes on. A number: the host \
         ends with that error, and the same command goes on later.\n\n\
         In every cell, afterwards: the worker has one attempt, which was trained once, or none and nothing begun; what was cancelled \
         does not run; what was fetched has the worker's bytes.\n\n| |",
    );
    for (_, name) in FAULTS {
        write!(text, " {name} |").unwrap();
    }
    text.push_str(&format!("\n|---|{}", "---|".repeat(FAULTS.len())));
    for (row, (_, name, _)) in CALLS.iter().enumerate() {
        write!(text, "\n| {name} |").unwrap();
        for column in columns {
            match &column[row] {
                Ok(()) => text.push_str(" ok |"),
                Err(error) => {
                    let known = errors.iter().position(|other| other == error);
                    let number = known.unwrap_or_else(|| {
                        errors.push(error);
                        errors.len() - 1
                    });
                    write!(text, " {} |", number + 1).unwrap();
                }
            }
        }
    }
    text.push('\n');
    for (index, error) in errors.iter().enumerate() {
        write!(text, "\n{}. {error}", index + 1).unwrap();
    }
    text.push('\n');
    text
}

#[test]
fn every_call_outlasts_every_fault_or_says_what_happened() {
    let bundles = &bundles();
    let columns: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = FAULTS.iter().map(|(fault, _)| scope.spawn(|| column(bundles, *fault))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let found = table(&columns);
    println!("{found}");
    let file = repository("tests/remote/FAULTS.md");
    if std::env::var_os("TUNESMITH_WRITE_FAULTS").is_some() {
        fs::write(&file, &found).unwrap();
    }
    assert_eq!(found, fs::read_to_string(&file).unwrap(), "TUNESMITH_WRITE_FAULTS=1 writes it anew");
}

/// A job that is done at the worker, and whose output somebody has changed since.
fn with_changed_output(change: impl FnOnce(&Path)) -> (Home, Working, String) {
    let working = Working::start();
    let host = host(&working.url(), &working.token_file());
    let cut = Arc::new(Line::to(&working.serving.address));
    point(&host, &cut.url, &working.token_file());
    // Its answer about the artefact is refused, and so the host has nothing yet.
    cut.arm(Fault::Status(401, None), "GET /v1/jobs/*artifact HTTP/1.1 empty");
    let ended = host.run(&["finetune"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(cut.was_met(), "{}", ended.stderr);
    let jobs = working.home.path("jobs");
    let mut keys = fs::read_dir(&jobs).unwrap().map(|entry| entry.unwrap().path());
    let job = keys.find(|path| path.join("out/result.json").is_file()).unwrap();
    change(&job.join("out"));
    point(&host, &working.url(), &working.token_file());
    let ended = host.run(&["finetune"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let error = ended.error().to_owned();
    let key = job.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(host.outputs().iter().filter(|name| !name.starts_with('.')).count(), 0, "{error}");
    (host, working, error.replace(&key, "JOB"))
}

#[test]
fn an_adapter_that_was_changed_is_not_taken() {
    let mut digests = (String::new(), String::new());
    let (host, working, error) = with_changed_output(|out| {
        let path = out.join("adapter/adapter_model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        digests.0 = sha256(&bytes);
        *bytes.last_mut().unwrap() ^= 1;
        digests.1 = sha256(&bytes);
        fs::write(&path, bytes).unwrap();
    });
    assert_eq!(
        error,
        format!(
            "what job `JOB-1` left is damaged: `adapter/adapter_model.safetensors` has SHA-256 {}, and `result.json` says {}; \
             `tunesmith jobs fetch JOB` tries once more",
            digests.1, digests.0
        )
    );
    // Put right again, the same command takes it, and nothing is trained.
    let jobs = working.home.path("jobs");
    let mut keys = fs::read_dir(&jobs).unwrap().map(|entry| entry.unwrap().path());
    let path = keys.find(|path| path.join("out").is_dir()).unwrap().join("out/adapter/adapter_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    host.trains(&[]);
    let mut working = working;
    assert_eq!(working.serving.log().matches(" begins").count(), 1);
}

#[test]
fn a_result_that_was_changed_is_not_taken() {
    let (_, _, error) = with_changed_output(|out| {
        let path = out.join("result.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen('{', "[", 1)).unwrap();
    });
    assert!(error.starts_with("what job `JOB-1` left is damaged: `result.json`: "), "{error}");
}

#[test]
fn an_output_without_its_metrics_is_not_taken() {
    let (_, working, error) = with_changed_output(|out| fs::remove_file(out.join("metrics.jsonl")).unwrap());
    assert_eq!(error, format!("job `JOB-1` left no `metrics.jsonl` in worker at {}", working.url()));
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_run_outlasts_a_line_that_is_cut_for_three_looks_at_its_job() {
    let mut working = Working::start();
    let line = Line::to(&working.serving.address);
    let host = host(&line.url, &working.token_file());
    let mut command = quietly(host.command(&["finetune", "--epochs", "400", "-vv"]));
    let mut run = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(run.stderr.take().unwrap()).lines().map(Result::unwrap);
    wait("a job", || working.running());
    line.cut();
    for _ in 0..3 {
        assert!(told.any(|line| line.contains("status, once more in ")), "it ended while the line was cut");
    }
    line.mend();
    told.for_each(drop); // to its end
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert_eq!(host.outputs().len(), 1);
    assert_eq!(working.serving.log().matches(" begins").count(), 1);
}

#[test]
fn a_host_that_gives_up_leaves_the_job_and_takes_it_up_again() {
    let bundles = bundles();
    let mut working = Working::start();
    let line = Line::to(&working.serving.address);
    let place = tempfile::tempdir().unwrap();
    let jobs = JobStore::beside(&place.path().join("approvals.sqlite"));
    let config = working.config(&line.url, TIMEOUT_S);
    let progress = Progress::silent();
    let drive = |bundle| {
        let backend = Persistent::patient_for(tunesmith::remote::open(&config).unwrap(), Duration::from_secs(2));
        Drive { backend: &backend, config: &config, jobs: &jobs, progress: &progress }.run(bundle)
    };
    let id = bundles.short.key.attempt(1);
    let direct = working.direct();

    // Submitted, and nothing is heard of it any more.
    line.arm(Fault::AnswerLost, "PUT * full");
    let error = thread::scope(|scope| {
        let driven = scope.spawn(|| drive(&bundles.short).map(drop));
        wait("the lost answer", || line.was_met().then_some(()));
        line.cut();
        driven.join().unwrap().unwrap_err()
    });
    assert!(error.is_transient(), "{error}");
    assert_eq!(error.to_string(), format!("worker at {}: Connection refused (os error 111)", line.url));
    let handle = direct.find(&id).unwrap().expect("the job goes on at the worker");
    assert_eq!(ended(&*direct, &handle), JobState::Succeeded);

    line.mend();
    let done = drive(&bundles.short).unwrap();
    assert_eq!(done.attempts, 1);
    assert_eq!(done.folder.file_name().unwrap(), FETCHED);
    assert_eq!(working.begun(&id), 1);
    assert!(!working.job(&id).exists(), "what was fetched is removed there");
}
