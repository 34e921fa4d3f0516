//! Slurm's programs, here or on a login node, and what their failures mean.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::SlurmOptions;
use crate::remote::RemoteError;

/// Slurm's own limit on a message is 10 s; a busy controller is asked a few times by its programs.
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// What `ssh` itself ends with, whatever the program would have.
const SSH_FAILED: i32 = 255;
const NOT_FOUND: i32 = 127;

/// Where Slurm's programs are.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    ssh: Option<(String, Vec<String>)>,
    timeout: Duration,
}

impl Programs {
    pub(super) fn new(options: &SlurmOptions) -> Self {
        let ssh = options.ssh.clone().map(|host| (host, options.ssh_args.clone()));
        Self { ssh, timeout: TIMEOUT }
    }

    /// `slurm`, `slurm by user@login`.
    pub(super) fn describe(&self) -> String {
        match &self.ssh {
            Some((host, _)) => format!("slurm by {host}"),
            None => "slurm".to_owned(),
        }
    }

    /// Runs a program with `input`, and gives what it writes.
    ///
    /// # Errors
    /// [`RemoteError::Program`] where it isn't there; otherwise by what it writes on its standard error.
    pub(super) fn run(&self, program: &str, args: &[String], input: &str) -> Result<String, RemoteError> {
        let ended = self.command(program, args).spawn().and_then(|child| wait(child, input, self.timeout));
        let local = if self.ssh.is_some() { "ssh" } else { program };
        let ended = ended.map_err(|error| self.not_there(local, &error.to_string()))?;
        let Some(Ended { status, stdout, stderr }) = ended else {
            let message = format!("`{program}` took longer than {} s", self.timeout.as_secs());
            return Err(RemoteError::Transient { engine: self.describe(), message, after: None });
        };
        if status.success() {
            return Ok(stdout);
        }
        let message = words(&stderr);
        Err(match status.code() {
            Some(NOT_FOUND) if self.ssh.is_some() => self.not_there(program, &message),
            Some(SSH_FAILED) if self.ssh.is_some() => self.no_login(message),
            _ if message.is_empty() => {
                let message = format!("`{program}` ended with {status} and without a word");
                RemoteError::Transient { engine: self.describe(), message, after: None }
            }
            _ => told(self.describe(), message),
        })
    }

    fn command(&self, program: &str, args: &[String]) -> Command {
        let mut command = match &self.ssh {
            None => {
                let mut command = Command::new(program);
                command.args(args);
                command
            }
            Some((host, ssh_args)) => {
                let mut command = Command::new("ssh");
                command.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]).args(ssh_args).args(["--", host]);
                // ssh hands the words to a shell.
                let words = std::iter::once(program).chain(args.iter().map(String::as_str));
                command.arg(words.map(quoted).collect::<Vec<_>>().join(" "));
                command
            }
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C");
        // A Ctrl-C is for us: a submission that was begun is ended, so that its answer is known.
        command.process_group(0);
        command
    }

    fn not_there(&self, program: &str, message: &str) -> RemoteError {
        let remedy = match &self.ssh {
            _ if program == "ssh" => "install OpenSSH's client, or remove `remote.slurm.ssh`".to_owned(),
            Some((host, _)) => format!("it must be in the PATH that `ssh {host} {program}` has"),
            None => "install Slurm's programs (Debian: `slurm-client`), or name a login node that has them with \
                     `remote.slurm.ssh`"
                .to_owned(),
        };
        RemoteError::Program { program: program.to_owned(), message: message.to_owned(), remedy }
    }

    fn no_login(&self, message: String) -> RemoteError {
        let engine = self.describe();
        if message.contains("Permission denied") || message.contains("verification failed") {
            let remedy = "log in once by hand with the same `ssh`, and give it a key that needs no password".to_owned();
            return RemoteError::Credentials { engine, message, remedy };
        }
        RemoteError::Transient { engine, message, after: None }
    }
}

struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

/// Feeds `child` and reads it out; `None` where it had to be killed.
fn wait(mut child: Child, input: &str, timeout: Duration) -> std::io::Result<Option<Ended>> {
    let start = Instant::now();
    let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        // A program that doesn't read its input has its reasons, and tells them.
        scope.spawn(move || stdin.as_mut().map(|pipe| pipe.write_all(input.as_bytes())));
        let stdout = scope.spawn(move || text(stdout));
        let stderr = scope.spawn(move || text(stderr));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if start.elapsed() > timeout {
                child.kill()?;
                child.wait()?;
                break None;
            }
            thread::sleep(POLL);
        };
        let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        Ok(status.map(|status| Ended { status, stdout, stderr }))
    })
}

fn text(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes)); // as much as there is
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `sbatch: error: a` and `sbatch: error: b` as `a; b`.
fn words(stderr: &str) -> String {
    let lines = stderr.lines().map(|line| {
        let line = line.trim();
        let line = line.split_once(": ").filter(|(program, _)| !program.contains(' ')).map_or(line, |(_, rest)| rest);
        line.trim_start_matches("error: ").trim_start_matches("fatal: ")
    });
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Within Slurm's texts: those of `slurm_strerror`, and of its programs where they can't reach it.
const TRANSIENT: [&str; 11] = [
    "Unable to contact slurm controller",
    "Slurm controller not responding",
    "Communication connection failure",
    "Communication shutdown failure",
    "Socket timed out",
    "Zero Bytes were transmitted",
    "Connection refused",
    "backup controller in standby mode",
    "Resource temporarily unavailable",
    "Slurm temporarily unable to accept job",
    "Transport endpoint is not connected",
];
const CREDENTIALS: [&str; 7] = [
    "authentication",
    "Access/permission denied",
    "Munge encode failed",
    "munge.socket",
    "Invalid user",
    "User's group not permitted",
    "Invalid account or account/partition combination",
];
const UNSCHEDULABLE: [&str; 12] = [
    "Requested node configuration is not available",
    "Requested partition configuration not available",
    "Invalid generic resource",
    "Invalid Trackable RESource",
    "More processors requested than permitted",
    "CPU count per node can not be satisfied",
    "Memory required by task is not available",
    "Memory specification can not be satisfied",
    "Node count specification invalid",
    "Requested time limit is invalid",
    "violates accounting/QOS policy",
    "Unable to satisfy cpu bind request",
];

fn told(engine: String, message: String) -> RemoteError {
    let has = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    if has(&TRANSIENT) {
        RemoteError::Transient { engine, message, after: None }
    } else if has(&CREDENTIALS) {
        let remedy =
            "that is the system user that runs this, `munge` of this machine, or `remote.slurm.account`".to_owned();
        RemoteError::Credentials { engine, message, remedy }
    } else if has(&UNSCHEDULABLE) {
        RemoteError::Unschedulable { engine, message }
    } else {
        RemoteError::Refused { engine, message }
    }
}

/// A word for a shell.
pub(in crate::remote) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(timeout: Duration) -> Programs {
        Programs { ssh: None, timeout }
    }

    fn shell(script: &str) -> [String; 2] {
        ["-c".to_owned(), script.to_owned()]
    }

    #[test]
    fn a_programs_output_and_its_input_may_be_larger_than_a_pipe() {
        let input = "0123456789abcdef".repeat(64 * 1024);
        assert_eq!(here(TIMEOUT).run("cat", &[], &input).unwrap(), input);
        // One that doesn't read is no failure of ours.
        assert_eq!(here(TIMEOUT).run("sh", &shell("echo 7"), &input).unwrap(), "7\n");
    }

    #[test]
    fn what_slurm_writes_tells_what_can_be_done() {
        let programs = here(TIMEOUT);
        let failed = |text: &str| {
            programs.run("sh", &shell(&format!("echo 'sbatch: error: {text}' >&2; exit 1")), "").unwrap_err()
        };
        let lost = failed("Batch job submission failed: Unable to contact slurm controller (connect failure)");
        assert!(lost.is_transient(), "{lost}");
        let none = failed("Batch job submission failed: Requested node configuration is not available");
        assert_eq!(
            none.to_string(),
            "slurm can't run such a job: Batch job submission failed: Requested node configuration is not available; change `gpu`, \
             `gpu_count`, `cpu`, `memory` or `remote.nodes`"
        );
        let munge =
            failed("Munge encode failed: Failed to access \"/run/munge/munge.socket.2\": No such file or directory");
        assert!(matches!(munge, RemoteError::Credentials { .. }), "{munge}");
        let other = failed("invalid partition specified: moon");
        assert_eq!(other.to_string(), "slurm refuses the request: invalid partition specified: moon");
        assert!(programs.run("false", &[], "").unwrap_err().is_transient());
    }

    #[test]
    fn a_program_that_hangs_is_ended_and_one_that_is_missing_is_told() {
        let start = Instant::now();
        let hung = here(Duration::from_millis(200)).run("sleep", &["60".to_owned()], "").unwrap_err();
        assert_eq!(hung.to_string(), "slurm: `sleep` took longer than 0 s");
        assert!(start.elapsed() < Duration::from_secs(10));
        let missing = here(TIMEOUT).run("sbatch-of-nobody", &[], "").unwrap_err();
        assert_eq!(
            missing.to_string(),
            "cannot run `sbatch-of-nobody`: No such file or directory (os error 2); install Slurm's programs (Debian: \
             `slurm-client`), or name a login node that has them with `remote.slurm.ssh`"
        );
    }

    #[test]
    fn a_login_nodes_shell_gets_words_as_they_are() {
        let line = "'two words' 'it'\\''s' '' --time=5 '$HOME'";
        let words = ["two words", "it's", "", "--time=5", "$HOME"].map(quoted).join(" ");
        assert_eq!(words, line);
        let told = here(TIMEOUT).run("sh", &shell(&format!("printf '%s\\n' {words}")), "").unwrap();
        assert_eq!(told, "two words\nit's\n\n--time=5\n$HOME\n");
    }
}
