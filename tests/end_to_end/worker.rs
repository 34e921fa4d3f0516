//! A `tunesmith serve --worker` on a free port of loopback, a host that sends it jobs, and the worker's own behaviour.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tunesmith::config::{Options, Provider, RemoteConfig, RemoteOptions, WorkerOptions};
use tunesmith::job::{Bundle, FailureKind, JobId};
use tunesmith::remote::{self, JobHandle, JobState, RemoteError, Resources, Submission, TrainingBackend};

use crate::home::{Home, copy_folder};
use crate::serving::{Serving, get};

/// Far over what a job here takes, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(120);
/// Minutes of training, where nobody ends it.
const LONG: &str = "100000";

/// A worker in a home of its own.
pub(crate) struct Working {
    pub(crate) serving: Serving,
    trainers: Trainers,
    pub(crate) home: Home,
}

/// The trainers of a folder of jobs, which outlive a worker that is killed: they end with the test.
struct Trainers(PathBuf);

impl Drop for Trainers {
    fn drop(&mut self) {
        for pid in pids(|line| line.contains(&*self.0.to_string_lossy())) {
            kill(pid, libc::SIGKILL);
        }
    }
}

impl Working {
    pub(crate) fn start() -> Self {
        Self::start_in(Home::empty(), &[])
    }

    pub(crate) fn start_in(home: Home, args: &[&str]) -> Self {
        let own = ["serve", "--worker", "-v", "--json", "--listen", "127.0.0.1:0", "--store", "telemetry.sqlite"];
        let serving = Serving::started(home.command(&[&own, args].concat()));
        let trainers = Trainers(home.path("jobs"));
        Self { serving, trainers, home }
    }

    /// The same folder, served anew.
    pub(crate) fn again(self) -> Self {
        let Self { home, serving, trainers } = self;
        drop(serving);
        let again = Self::start_in(home, &[]);
        std::mem::forget(trainers); // they are those of the other now
        again
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.serving.address)
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.home.path("jobs/worker.token")
    }

    fn bearer(&self) -> String {
        format!("authorization: Bearer {}\r\n", fs::read_to_string(self.token_file()).unwrap().trim())
    }

    /// A client of it, at its own address or at another that leads there.
    pub(crate) fn client(&self, url: &str, timeout_s: u32) -> Box<dyn TrainingBackend> {
        remote::open(&self.config(url, timeout_s)).unwrap()
    }

    pub(crate) fn config(&self, url: &str, timeout_s: u32) -> RemoteConfig {
        config(url, self.token_file(), timeout_s)
    }

    pub(crate) fn direct(&self) -> Box<dyn TrainingBackend> {
        self.client(&self.url(), 60)
    }

    /// The attempt that runs, by the worker's own words.
    pub(crate) fn running(&self) -> Option<String> {
        let told = get(&self.serving.address, "/v1/worker", &self.bearer()).unwrap().json();
        told["running"].as_str().map(str::to_owned)
    }

    pub(crate) fn job(&self, id: &JobId) -> PathBuf {
        self.home.path("jobs").join(id.key.as_str())
    }

    /// How often a trainer was started for it.
    pub(crate) fn begun(&mut self, id: &JobId) -> usize {
        self.serving.log().matches(&format!("job `{id}` begins")).count()
    }

    /// Files of attempts, by their numbers.
    pub(crate) fn attempts(&self, id: &JobId) -> Vec<String> {
        let entries = fs::read_dir(self.job(id).join("attempts")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
        names.sort();
        names
    }
}

pub(crate) fn config(url: &str, token_file: PathBuf, timeout_s: u32) -> RemoteConfig {
    let modal = WorkerOptions {
        url: Some(url.to_owned()),
        token_file: Some(token_file),
        timeout_s: timeout_s.try_into().ok(),
        ..WorkerOptions::default()
    };
    RemoteConfig::new(&Options {
        backend_provider: Some(Provider::Modal),
        gpu: Some("none".to_owned()),
        cpu: 1.try_into().ok(),
        memory: 512.try_into().ok(),
        remote: RemoteOptions { modal, ..RemoteOptions::default() },
        ..Options::default()
    })
    .unwrap()
}

/// A host whose runs are jobs of a worker at `url`.
pub(crate) fn host(url: &str, token_file: &Path) -> Home {
    let home = Home::ready();
    point(&home, url, token_file);
    home
}

/// From now on at `url`.
pub(crate) fn point(home: &Home, url: &str, token_file: &Path) {
    let config = String::from_utf8(home.read("tunesmith.toml")).unwrap();
    let own = config.split_once("backend = ").map_or(config.as_str(), |(own, _)| own);
    home.write(
        "tunesmith.toml",
        format!(
            "{own}backend = \"remote\"\nbackend_provider = \"modal\"\ngpu = \"none\"\ncpu = 1\nmemory = 512\n\
             [remote.modal]\nurl = \"{url}\"\ntoken_file = \"{}\"\n[training]\ncheckpoint_steps = 5\n",
            token_file.display()
        ),
    );
}

/// Bundles that a real run has made: one that trains in no time, and one that does not end.
pub(crate) struct Bundles {
    _place: tempfile::TempDir,
    pub(crate) short: Bundle,
    pub(crate) long: Bundle,
}

pub(crate) fn bundles() -> Bundles {
    let working = Working::start();
    let host = host(&working.url(), &working.token_file());
    let place = tempfile::tempdir().unwrap();
    host.trains(&[]);
    let short = copied(&host, &place.path().join("short"), &[]);
    let seen = short.key.to_string();
    let mut run = quietly(host.command(&["finetune", "--epochs", LONG])).spawn().unwrap();
    let found = wait("the bundle of a long job", || {
        let jobs = bundle_folders(&host);
        jobs.into_iter().find(|folder| !folder.to_string_lossy().contains(&seen))
    });
    run.kill().unwrap();
    run.wait().unwrap();
    let long = copied(&host, &place.path().join("long"), &[found]);
    Bundles { _place: place, short, long }
}

pub(crate) fn quietly(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Whole bundles of a host's jobs.
pub(crate) fn bundle_folders(host: &Home) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![host.path("")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.ends_with("bundle") && path.join("job.json").is_file() {
                found.push(path);
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

/// The one bundle of `host`, or `found`, in a place of its own.
fn copied(host: &Home, to: &Path, found: &[PathBuf]) -> Bundle {
    let from = found.first().cloned().unwrap_or_else(|| bundle_folders(host).remove(0));
    copy_tree(&from, to);
    Bundle::open(to).unwrap()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

pub(crate) fn wait<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn on_cpu() -> Resources {
    Resources { gpu: None, gpu_count: 1, nodes: 1, cpu: 1, memory_mib: 512 }
}

pub(crate) fn submission<'a>(bundle: &'a Bundle, resources: &'a Resources, attempt: u32) -> Submission<'a> {
    Submission {
        id: bundle.key.attempt(attempt),
        bundle,
        resources,
        timeout: Duration::from_secs(bundle.job.timeout_s),
        queue_timeout: Duration::from_secs(60),
        labels: std::collections::BTreeMap::new(),
    }
}

pub(crate) fn submit(backend: &dyn TrainingBackend, bundle: &Bundle, attempt: u32) -> Result<JobHandle, RemoteError> {
    backend.submit(&submission(bundle, &on_cpu(), attempt))
}

/// Until it has ended.
pub(crate) fn ended(backend: &dyn TrainingBackend, handle: &JobHandle) -> JobState {
    wait("the end of a job", || Some(backend.status(handle).unwrap().state).filter(JobState::is_final))
}

/// Until the trainer has told of a step beyond `least`.
pub(crate) fn at_step(backend: &dyn TrainingBackend, handle: &JobHandle, least: usize) {
    wait("a heartbeat", || {
        let status = backend.status(handle).unwrap();
        assert!(!status.state.is_final(), "{status:?}");
        status.heartbeat.filter(|heartbeat| heartbeat.step > least)
    });
}

#[test]
fn a_second_attempt_goes_on_from_the_first_ones_checkpoint_and_brings_no_bundle() {
    let bundles = bundles();
    let working = Working::start();
    let direct = working.direct();
    let first = submit(&*direct, &bundles.long, 1).unwrap();
    at_step(&*direct, &first, 20);
    direct.cancel(&first).unwrap();
    assert_eq!(ended(&*direct, &first), JobState::Cancelled);
    let second = submit(&*direct, &bundles.long, 2).unwrap();
    at_step(&*direct, &second, 20);
    let log = String::from_utf8(direct.logs(&second, 0).unwrap().bytes).unwrap();
    let resumed = log.split_once("going on after step ").and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok());
    assert!(resumed.is_some_and(|step: usize| step >= 20), "{log}");
    direct.cancel(&second).unwrap();
    assert_eq!(ended(&*direct, &second), JobState::Cancelled);
}

#[test]
fn a_worker_that_is_busy_says_so_and_with_which_job() {
    let bundles = bundles();
    let working = Working::start();
    let direct = working.direct();
    let long = submit(&*direct, &bundles.long, 1).unwrap();
    let error = submit(&*direct, &bundles.short, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "worker at {} takes no job now: the worker is at job `{}`, and does one at a time; nothing was submitted, and the same \
             command tries again, for as long as `remote.queue_timeout`",
            working.url(),
            long.id
        )
    );
    let RemoteError::Busy { after, .. } = error else { panic!("{error:?}") };
    assert_eq!(after, Some(Duration::from_secs(5)));
    assert_eq!(working.attempts(&bundles.short.key.attempt(1)), [""; 0]);
    direct.cancel(&long).unwrap();
    assert_eq!(ended(&*direct, &long), JobState::Cancelled);
    let short = submit(&*direct, &bundles.short, 1).unwrap();
    assert_eq!(ended(&*direct, &short), JobState::Succeeded);
}

#[test]
fn a_job_that_is_over_is_removed_at_its_worker_and_here_and_one_that_goes_on_is_not() {
    let working = Working::start();
    let host = host(&working.url(), &working.token_file());
    let mut run = quietly(host.command(&["finetune", "--epochs", LONG])).spawn().unwrap();
    let id = wait("a job", || working.running());
    let key = id.strip_suffix("-1").unwrap();
    host.fails(
        &["jobs", "remove", key],
        &format!("job `{key}` is attended by another process of this host; wait for it, or end that one"),
    );
    run.kill().unwrap();
    run.wait().unwrap();
    host.fails(&["jobs", "remove", key], &format!("job `{key}` is not over; `tunesmith jobs cancel {key}` ends it"));
    assert_eq!(host.run(&["jobs", "cancel", key]).code, Some(0));
    let here = bundle_folders(&host).remove(0);
    assert!(working.home.path("jobs").join(key).is_dir());
    let removed = host.run(&["jobs", "remove", key]);
    assert_eq!(
        removed.stdout.trim(),
        format!("nothing is left of job `{key}`, here and at worker at {}", working.url())
    );
    assert!(!working.home.path("jobs").join(key).exists());
    assert!(!here.parent().unwrap().exists());
    assert_eq!(host.run(&["jobs", "list"]).stdout.trim(), "no job was submitted to another machine");
}

#[test]
fn a_worker_that_is_killed_and_started_again_finds_its_trainer() {
    let bundles = bundles();
    let working = Working::start();
    let direct = working.direct();
    let handle = submit(&*direct, &bundles.long, 1).unwrap();
    at_step(&*direct, &handle, 5);
    let working = working.again(); // its drop kills -9
    let direct = working.direct();
    assert_eq!(working.running(), Some(handle.id.to_string()));
    assert_eq!(direct.status(&handle).unwrap().state, JobState::Running);
    let busy = submit(&*direct, &bundles.short, 1).unwrap_err();
    assert!(matches!(busy, RemoteError::Busy { .. }), "{busy}");
    direct.cancel(&handle).unwrap();
    assert_eq!(ended(&*direct, &handle), JobState::Cancelled);
    wait("an idle worker", || working.running().is_none().then_some(()));
}

#[test]
fn a_trainer_that_is_killed_is_a_lost_machine_whether_its_worker_sees_it_or_not() {
    let bundles = bundles();
    let working = Working::start();
    let direct = working.direct();
    let handle = submit(&*direct, &bundles.long, 1).unwrap();
    at_step(&*direct, &handle, 5);
    kill(trainer(&working, &handle.id), libc::SIGKILL);
    let JobState::Failed(failure) = ended(&*direct, &handle) else { panic!("it was killed") };
    assert_eq!((failure.kind, failure.exit_code), (FailureKind::NodeLost, Some(137)));
    assert!(failure.message.starts_with("it was ended by signal 9 ("), "{failure:?}");

    let handle = submit(&*direct, &bundles.long, 2).unwrap();
    at_step(&*direct, &handle, 5);
    let Working { home, serving, .. } = working;
    let trainer = wait("the trainer", || pid_of(&home, &handle.id));
    serving.kill();
    kill(trainer, libc::SIGKILL);
    let working = Working::start_in(home, &[]);
    let JobState::Failed(failure) = ended(&*working.direct(), &handle) else { panic!("it was killed") };
    assert_eq!((failure.kind, failure.exit_code), (FailureKind::NodeLost, None));
    assert_eq!(failure.message, "it ended while its worker was away");
}

#[test]
fn a_worker_that_is_shut_down_lets_its_trainer_save_its_state() {
    let bundles = bundles();
    let working = Working::start();
    let direct = working.direct();
    let handle = submit(&*direct, &bundles.long, 1).unwrap();
    at_step(&*direct, &handle, 5);
    let trainer = trainer(&working, &handle.id);
    let Working { home, serving, .. } = working;
    serving.stop();
    assert!(!Path::new(&format!("/proc/{trainer}")).exists(), "the trainer outlived its worker");
    let working = Working::start_in(home, &[]);
    let JobState::Failed(failure) = working.direct().status(&handle).unwrap().state else { panic!("it was ended") };
    assert_eq!((failure.kind, failure.exit_code), (FailureKind::Preempted, Some(75)));
    let checkpoint = fs::read_dir(working.job(&handle.id).join("out/checkpoint")).unwrap().count();
    assert!(checkpoint > 0, "no checkpoint was saved");
}

#[test]
fn what_does_not_fit_or_is_not_what_it_says_is_refused() {
    let bundles = bundles();
    let working = Working::start();
    let direct = working.direct();
    let at = format!("worker at {}", working.url());
    let change = "; change `gpu`, `gpu_count`, `cpu`, `memory` or `remote.nodes`";
    let two_machines = Resources { nodes: 2, ..on_cpu() };
    let told = format!("{at} can't run such a job: a worker is one machine, and `remote.nodes` is 2{change}");
    assert_eq!(direct.probe(&two_machines).unwrap_err().to_string(), told);
    assert_eq!(direct.submit(&submission(&bundles.short, &two_machines, 1)).unwrap_err().to_string(), told);
    let much = Resources { memory_mib: 1 << 40, ..on_cpu() };
    assert!(matches!(direct.probe(&much), Err(RemoteError::Unschedulable { .. })));

    // Whose token is another.
    let other = working.home.path("other.token");
    fs::write(&other, "not-the-token-of-this-worker").unwrap();
    let stranger = remote::open(&config(&working.url(), other, 60)).unwrap();
    assert_eq!(
        stranger.probe(&on_cpu()).unwrap_err().to_string(),
        format!(
            "{at} refuses the credentials: this is not the worker's token: send `Authorization: Bearer TOKEN` with the one that \
             its start names (401); a worker's token is in `remote.modal.token_file` or TUNESMITH_WORKER_TOKEN, Modal's in \
             `remote.modal.key_file` or MODAL_KEY and MODAL_SECRET"
        )
    );

    // A file that was changed after its digest was made.
    let place = tempfile::tempdir().unwrap();
    copy_tree(&bundles.short.folder, place.path());
    fs::write(place.path().join("dataset.jsonl"), "{}").unwrap();
    let changed = Bundle::open(place.path()).unwrap();
    assert_eq!(
        submit(&*direct, &changed, 1).unwrap_err().to_string(),
        format!("{at} refuses the request: `dataset.jsonl` is not the one that `job.json` names (422)")
    );
    // The same name for another bundle.
    let handle = submit(&*direct, &bundles.short, 1).unwrap();
    ended(&*direct, &handle);
    let digest = format!("{}{}", &bundles.short.digest[..20], "0".repeat(44));
    let other = Bundle { digest, ..bundles.short.clone() };
    assert_eq!(
        submit(&*direct, &other, 1).unwrap_err().to_string(),
        format!(
            "{at} has a job `{}` already, of another bundle (its digest is {}); it is not one of ours: remove it there, or \
             change the tenant's name",
            handle.id, bundles.short.digest
        )
    );
    assert_eq!(working.attempts(&handle.id), ["1"]);
    // What a job left is there until it is removed, and gone then.
    let unknown = JobHandle { id: handle.id.key.attempt(7), ..handle.clone() };
    let not_there = direct.status(&unknown).unwrap_err().to_string();
    assert_eq!(
        not_there,
        format!("{at} knows no job `{}`: it was removed there, or the engine was set up anew", unknown.id)
    );
    direct.cleanup(&handle.id).unwrap();
    direct.cleanup(&handle.id).unwrap();
    assert!(!working.job(&handle.id).exists());
    assert_eq!(direct.find(&handle.id).unwrap(), None);
}

#[test]
fn no_two_workers_serve_one_folder() {
    let working = Working::start();
    let listen = ["serve", "--worker", "--listen", "127.0.0.1:0", "--store", "telemetry.sqlite"];
    let second = working.home.run(&listen);
    assert_eq!(second.code, Some(1), "{}", second.stderr);
    assert_eq!(
        second.error(),
        "cannot use the folder of jobs `jobs` (another `serve --worker` has it): name another with `--jobs-dir`"
    );
}

#[test]
fn a_start_says_how_hosts_train_here() {
    let working = Working::start();
    let told: &Value = &working.serving.announced["worker"];
    assert_eq!(told["token_file"], working.token_file().canonicalize().unwrap().to_str().unwrap());
    let token = fs::read_to_string(working.token_file()).unwrap();
    assert_eq!(token.trim().len(), 43);
}

fn trainer(working: &Working, id: &JobId) -> i32 {
    wait("the trainer", || pid_of(&working.home, id))
}

/// The process that trains an attempt, by its arguments.
fn pid_of(home: &Home, id: &JobId) -> Option<i32> {
    let out = home.path("jobs").join(id.key.as_str()).join("out").canonicalize().ok()?;
    let tail = format!("--out\0{}\0--attempt\0{}\0", out.display(), id.attempt);
    pids(|line| line.ends_with(&tail)).into_iter().next()
}

/// The trainers whose arguments are such, each followed by a zero byte.
fn pids(such: impl Fn(&str) -> bool) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_one = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains("\0train\0--job\0") && such(&line)
    };
    pids.filter(is_one).collect()
}

fn kill(pid: i32, signal: libc::c_int) {
    // SAFETY: a plain system call on the trainer that was just found by its arguments.
    unsafe { libc::kill(pid, signal) };
}
