//! A folder with a configuration, people and an approval store, and a `tunesmith serve` of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// The quick start's, with more epochs, so that there is something to watch.
const CONFIG: &str = r#"project = "quickstart"
agent_type = "routing"
base_model = "base"
output_dir = "adapters"
epochs = 40
batch_size = 8
learning_rate = 2e-3

[telemetry]
store = "telemetry.sqlite"
import = ["telemetry.jsonl"]

[synthetic]
generator = "templates"
"#;

/// A folder to run the binary in.
pub(crate) struct Home {
    root: tempfile::TempDir,
}

/// A server of a home, ended with its test.
pub(crate) struct Serving {
    process: Child,
    endpoint: String,
    /// Of the first person, who is an admin.
    pub(crate) token: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}

impl Home {
    /// The quick start with so little feedback on its telemetry that a policy wants 11 examples more.
    pub(crate) fn short() -> Self {
        let home = Self { root: tempfile::tempdir().unwrap() };
        let quickstart = repository("examples/quickstart");
        let telemetry = fs::read_to_string(quickstart.join("telemetry.jsonl")).unwrap();
        let (feedback, spans): (Vec<_>, Vec<_>) =
            telemetry.lines().partition(|line| line.contains("\"annotator_kind\""));
        home.write("telemetry.jsonl", &[&spans[..], &feedback[..60]].concat().join("\n"));
        home.write("tunesmith.toml", CONFIG);
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

    /// The binary, in this home and with nothing of the caller's environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.root.path()).env_clear().env("HOME", self.root.path());
        command.env("TUNESMITH_DEVICE", "cpu").stdin(Stdio::null());
        command
    }

    pub(crate) fn serve(&self) -> Serving {
        let mut serve = self.command(&["serve", "--json", "--listen", "127.0.0.1:0"]);
        let mut process = serve.stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let announced: Value = serde_json::from_str(&first).expect("an announcement: see its error above");
        let token_file = announced["tenants"][0]["review_token_file"].as_str().unwrap();
        let token = fs::read_to_string(token_file).unwrap().trim().to_owned();
        Serving { process, endpoint: announced["endpoint"].as_str().unwrap().to_owned(), token }
    }

    /// Runs the binary to its end, and returns its exit code and what it printed.
    pub(crate) fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let ended = self.command(args).output().unwrap();
        let (out, error) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        (ended.status.code(), format!("{out}{error}"))
    }

    /// The folders of finished runs.
    pub(crate) fn adapters(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("adapters")) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with('.')).collect()
    }

    pub(crate) fn read_json(&self, name: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path(name)).unwrap()).unwrap()
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
