//! A trainer is attended to its end by a thread of its own.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::folder::{JobFolder, Name, Record};
use super::process::{Ended, Process};
use super::{Running, Worker};
use crate::job::{Failure, FailureKind, RESULT_FILE};
use crate::remote::GRACE;
use crate::remote::worker::contract::Stage;

/// How often it is looked at: what a job takes longer for being remote.
const LOOK: Duration = Duration::from_millis(20);
/// From being asked to end to being killed: a step and its checkpoint.
const TO_SAVE: Duration = Duration::from_secs(60);

/// Why a trainer was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Cancelled,
    Stopping,
    Late,
}

impl Worker {
    /// Notes that it runs, and attends it.
    pub(super) fn attend(self: &Arc<Self>, name: Name, record: Record, process: Process) {
        let record = Record { state: Stage::Running, ..record };
        self.write(&self.folder(&name.key), name.attempt, &record);
        self.state().running = Some(Running { name: name.clone(), record });
        let worker = Arc::clone(self);
        thread::spawn(move || worker.attended(&name, process));
    }

    fn attended(&self, name: &Name, mut process: Process) {
        let (ended, asked) = self.wait(&mut process);
        let folder = self.folder(&name.key);
        let mut state = self.state();
        if let Some(running) = state.running.take() {
            let record = outcome(running.record, &folder, name.attempt, ended, asked);
            tracing::info!("job `{}`: {}", record.id, told(&record));
            self.write(&folder, name.attempt, &record);
        }
        self.idle.notify_all();
    }

    fn wait(&self, process: &mut Process) -> (Ended, Option<Asked>) {
        let mut asked: Option<(Asked, Instant)> = None;
        let mut killed = false;
        loop {
            match process.ended() {
                Ok(Some(ended)) => return (ended, asked.map(|(asked, _)| asked)),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!("a trainer cannot be looked after: {error}");
                    process.signal(libc::SIGKILL);
                    return (Ended::Unseen, None);
                }
            }
            match asked {
                None => {
                    if let Some(why) = self.wants_its_end() {
                        process.signal(libc::SIGTERM);
                        asked = Some((why, Instant::now()));
                    }
                }
                Some((_, at)) if at.elapsed() > TO_SAVE && !killed => {
                    process.signal(libc::SIGKILL);
                    killed = true;
                }
                Some(_) => {}
            }
            thread::sleep(LOOK);
        }
    }

    fn wants_its_end(&self) -> Option<Asked> {
        let state = self.state();
        let Running { record, .. } = state.running.as_ref()?;
        let most = GRACE.as_secs().saturating_add(record.timeout_s);
        let age = Timestamp::now().duration_since(record.submitted_at).as_secs();
        match () {
            () if record.cancel_asked => Some(Asked::Cancelled),
            () if state.stopping => Some(Asked::Stopping),
            () if u64::try_from(age).is_ok_and(|age| age > most) => Some(Asked::Late),
            () => None,
        }
    }

    /// Of an attempt that nobody is left to tell of but its files.
    pub(super) fn note_lost(&self, folder: &JobFolder, attempt: u32, record: Record) {
        let record = outcome(record, folder, attempt, Ended::Unseen, None);
        tracing::warn!("job `{}`: {}", record.id, told(&record));
        self.write(folder, attempt, &record);
    }

    fn write(&self, folder: &JobFolder, attempt: u32, record: &Record) {
        if let Err(error) = folder.write(attempt, record) {
            // A look after the next start comes to the same.
            tracing::error!("what became of job `{}` cannot be written: {error}", record.id);
        }
    }
}

fn told(record: &Record) -> String {
    match &record.failure {
        Some(failure) => format!("failed ({}): {}", failure.kind.name(), failure.message),
        None => format!("{:?}", record.state).to_lowercase(),
    }
}

fn outcome(record: Record, folder: &JobFolder, attempt: u32, ended: Ended, asked: Option<Asked>) -> Record {
    let exit_code = match ended {
        Ended::Code(code) => Some(code),
        Ended::Unseen => None,
    };
    let is_done = matches!(ended, Ended::Code(0) | Ended::Unseen) && folder.has_result(&record.digest);
    let failure = |kind, message: String| Some(Failure { kind, exit_code, message });
    let (state, failure) = match (is_done, asked, ended) {
        (true, ..) => (Stage::Succeeded, None),
        _ if record.cancel_asked => (Stage::Cancelled, None),
        (_, Some(Asked::Late), _) => {
            let message = format!("it went on for longer than {} s, and was ended", record.timeout_s + GRACE.as_secs());
            (Stage::Failed, failure(FailureKind::Timeout, message))
        }
        (_, _, Ended::Code(0)) => {
            (Stage::Failed, failure(FailureKind::Artefact, format!("it ended well, and left no `{RESULT_FILE}`")))
        }
        (_, _, Ended::Code(code)) => {
            let words = folder.last_words(attempt).unwrap_or_else(|| "without a word".to_owned());
            let message = match asked {
                Some(Asked::Stopping) => format!("the worker was shut down ({words})"),
                _ if code > 128 => format!("it was ended by signal {} ({words})", code - 128),
                _ => words,
            };
            let own = folder.failure().map(|own| Failure { exit_code: Some(code), ..own });
            (Stage::Failed, own.or_else(|| Some(Failure::of_exit_code(code, message))))
        }
        (_, _, Ended::Unseen) => {
            let message = "it ended while its worker was away".to_owned();
            (Stage::Failed, folder.failure().or_else(|| failure(FailureKind::NodeLost, message)))
        }
    };
    Record { state, failure, exit_code, ..record }
}
