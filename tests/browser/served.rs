//! A folder with a configuration, people and an approval store, and a `tunesmith serve` of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A folder to run the binary in.
pub(crate) struct Home {
    root: tempfile::TempDir,
}

/// A server of a home, ended with its test.
pub(crate) struct Serving {
    process: Child,
    /// Where it is: `http://127.0.0.1:4318`.
    pub(crate) endpoint: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}

impl Home {
    /// The quick start with so little of its telemetry that a policy wants more.
    pub(crate) fn new(spans: usize) -> Self {
        let home = Self { root: tempfile::tempdir().unwrap() };
        let quickstart = repository("examples/quickstart");
        let telemetry = fs::read_to_string(quickstart.join("telemetry.jsonl")).unwrap();
        let telemetry: Vec<_> = telemetry.lines().take(spans).collect();
        home.write("telemetry.jsonl", &telemetry.join("\n"));
        fs::create_dir(home.path("base")).unwrap();
        for file in fs::read_dir(quickstart.join("base")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), home.path("base").join(file.file_name())).unwrap();
        }
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Adds somebody with a role, and returns their token.
    pub(crate) fn person(&self, name: &str, role: &str) -> String {
        let added = self.command(&["people", "add", name, "--role", role, "--json"]).output().unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let added: Value = serde_json::from_slice(&added.stdout).unwrap();
        added["token"].as_str().unwrap().to_owned()
    }

    /// The binary, in this home and with nothing of the caller's environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.root.path()).env_clear().env("HOME", self.root.path());
        command.env("TUNESMITH_DEVICE", "cpu").stdin(Stdio::null());
        command
    }

    pub(crate) fn serve(&self) -> Serving {
        let mut process =
            self.command(&["serve", "--json", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let announced: Value = serde_json::from_str(&first).expect("an announcement: see its error above");
        Serving { process, endpoint: announced["endpoint"].as_str().unwrap().to_owned() }
    }

    /// Everything in a folder, hidden files too.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Serving {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint)
    }
}

/// A path in the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn binary() -> PathBuf {
    let named = std::env::var_os("TUNESMITH_BIN").map(PathBuf::from);
    let binary = named.unwrap_or_else(|| repository("target/release/tunesmith"));
    assert!(
        binary.is_file(),
        "no `{}`: cargo build --release --package tunesmith, or name the binary in TUNESMITH_BIN",
        binary.display()
    );
    binary.canonicalize().unwrap()
}
