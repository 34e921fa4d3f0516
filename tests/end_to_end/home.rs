//! A home of its own for each test: a folder to run the binary in, and what is there to look at afterwards.

use std::fs;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::spans::{Verdict, lines, span};

/// Far over what any run here takes (the longest, the quick start, takes 11 s on two cores): ends a run that hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// The configuration of [`Home::ready`]; more keys can follow it.
const CONFIG: &str = r#"agent_type = "routing"
method = "sft"
base_model = "model"
output_dir = "out"
epochs = 1
telemetry = { store = "telemetry.sqlite", import = ["traces.jsonl"] }
"#;

pub(crate) struct Home {
    root: tempfile::TempDir,
}

/// How a run ended.
pub(crate) struct Ended {
    /// None where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn empty() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    /// A run that succeeds as it stands: 60 approved spans, a Llama of two narrow layers, and their configuration.
    pub(crate) fn ready() -> Self {
        let home = Self::empty();
        home.write("tunesmith.toml", CONFIG);
        home.write("traces.jsonl", lines((0..60).map(|index| span(index, Verdict::Approved))));
        copy_folder(&tiny_model(), &home.path("model"));
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.path(name), contents).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// One more line of configuration.
    pub(crate) fn configure(&self, line: &str) {
        let config = fs::read_to_string(self.path("tunesmith.toml")).unwrap();
        self.write("tunesmith.toml", format!("{config}{line}\n"));
    }

    /// The binary, in this home and with nothing of the caller's environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunesmith"));
        command.args(args).current_dir(self.root.path()).env_clear().env("HOME", self.root.path());
        // Compiled plugins are shared by all tests: 0.1 s less for each run.
        // What the tests say is of the CPU, on whatever machine; those of the GPU name theirs.
        command.env("TUNESMITH_DEVICE", "cpu");
        command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        run(self.command(args))
    }

    /// Trains, which must succeed, and returns the run's folder.
    #[track_caller]
    pub(crate) fn trains(&self, args: &[&str]) -> PathBuf {
        let before = self.outputs();
        let ended = self.run(&[&["finetune"], args].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let new: Vec<_> = self.outputs().into_iter().filter(|name| !before.contains(name)).collect();
        assert_eq!(new.len(), 1, "{new:?}");
        self.path("out").join(&new[0])
    }

    /// Trains, which must fail as a user's mistake does: exit code 1, `error` and nothing after it, no panic, and
    /// nothing in the output folder.
    #[track_caller]
    pub(crate) fn refuses(&self, args: &[&str], error: &str) {
        let ended = self.run(&[&["finetune"], args].concat());
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert_eq!(ended.error(), error);
        assert_eq!(ended.stdout, "");
        assert!(!ended.stderr.contains("panicked at"), "{}", ended.stderr);
        assert_eq!(self.outputs(), [""; 0]);
    }

    /// A command that must fail as a user's mistake does: exit code 1, `error` and nothing after it, nothing on standard
    /// output, and this home as it was.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str], error: &str) {
        let before = self.names();
        let ended = self.run(args);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert_eq!(ended.error(), error);
        assert_eq!(ended.stdout, "");
        assert_eq!(self.names(), before);
    }

    /// Everything in this home's own folder, hidden files too.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Everything in the output folder, hidden files too.
    pub(crate) fn outputs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("out")) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Ended {
    /// What follows `error: `, to the end of standard error.
    #[track_caller]
    pub(crate) fn error(&self) -> &str {
        let start = match self.stderr.strip_prefix("error: ") {
            Some(error) => Some(error),
            None => self.stderr.split_once("\nerror: ").map(|(_, error)| error),
        };
        start.unwrap_or_else(|| panic!("no error in: {}", self.stderr)).trim_end()
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in: {}", self.stdout))
    }
}

/// Runs to the end, or to the end of our patience.
pub(crate) fn run(mut command: Command) -> Ended {
    // Files, because a full pipe would stop the run that we wait for.
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdin(Stdio::null()).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let ended = wait(&mut child);
    let text = |file: &mut fs::File| {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    let (stdout, stderr) = (text(&mut stdout), text(&mut stderr));
    assert!(ended.is_some(), "{command:?} did not end within {PATIENCE:?}; it said: {stderr}");
    assert!(!(stdout.clone() + &stderr).contains('\x1b'), "colours in a file: {stdout}{stderr}");
    Ended { code: ended.and_then(|status| status.code()), stdout, stderr }
}

fn wait(child: &mut Child) -> Option<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A path in the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A Llama of two layers of 48, whose weights are random: it trains in a few milliseconds, and learns nothing.
pub(crate) fn tiny_model() -> PathBuf {
    repository("trainer-cuda/tests/fixtures/golden/llama_tied/base")
}

/// A model, or an adapter of one, whose numbers were made with Hugging Face: `llama_tied/adapter_init`.
pub(crate) fn golden(path: &str) -> PathBuf {
    repository("trainer-cuda/tests/fixtures/golden").join(path)
}

/// Files only.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
