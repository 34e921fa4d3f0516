//! What becomes of a job: it is submitted, attended, tried again where that may help, fetched and looked at.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::jobs::{AttemptRecord, HeldJob, JobStore, RecordState};
use super::{
    GRACE, JobHandle, JobState, JobStatus, Persistent, RemoteError, Submission, TrainingBackend, cost, verify,
};
use crate::config::RemoteConfig;
use crate::job::{Bundle, Failure, FailureKind, JobId, JobResult};
use crate::progress::Progress;

/// A look at a job: often at first, so that a short one is not kept waiting; a long one is not asked every second.
const FIRST_LOOK: Duration = Duration::from_millis(250);
const LONGEST_LOOK: Duration = Duration::from_secs(5);
/// How long a job that was cancelled is waited for: longer than engines let one save its state.
const FAREWELL: Duration = GRACE.saturating_add(Duration::from_secs(30));

/// Where a job's output is copied to, in its folder.
pub const FETCHED: &str = "fetched";

/// All that it takes to attend a job.
pub struct Drive<'a> {
    /// The engine.
    pub backend: &'a Persistent,
    /// On what, how long, how often.
    pub config: &'a RemoteConfig,
    /// Where it is noted.
    pub jobs: &'a JobStore,
    /// Where people see it.
    pub progress: &'a Progress,
}

/// A job that is done, and whose output is here and is what it wrote.
#[derive(Debug, Clone)]
pub struct Done {
    /// Folder of the output.
    pub folder: PathBuf,
    /// Its `result.json`.
    pub result: JobResult,
    /// Attempts that it took.
    pub attempts: u32,
    /// USD by the price table, where it has the GPU.
    pub cost_usd: Option<f64>,
}

/// How an attempt ended.
enum Ended {
    Succeeded,
    Failed(Failure),
    Cancelled,
}

impl Drive<'_> {
    /// Attends the job of `bundle` until its output is here. One that is known already is taken up where it stands, and one that
    /// is done is not done again.
    ///
    /// # Errors
    /// [`RemoteError::Failed`], [`RemoteError::Cancelled`], [`RemoteError::Detached`] where the process is interrupted, and those of
    /// the engine that outlast its repetitions; the job goes on then.
    pub fn run(&self, bundle: &Bundle) -> Result<Done, RemoteError> {
        let mut held = self.jobs.attend(bundle, self.config, &self.backend.describe())?;
        if held.record.state == RecordState::Finished {
            let folder = held.folder().join(FETCHED);
            if let Ok(result) = verify::output(&folder, bundle, &bundle.key.attempt(last_number(&held))) {
                self.tell("done already: its output is here", &bundle.key.attempt(last_number(&held)));
                return Ok(self.done(&held, folder, result));
            }
        }
        // Attempts of an earlier command don't count: it ended, and somebody wants it tried again.
        let first = if is_open(&held) { first_of_round(&held) } else { last_number(&held) + 1 };
        held.change(|record| record.state = RecordState::Open)?;
        loop {
            let (handle, found) = self.submit(&mut held, bundle)?;
            let ended = self.attend(&mut held, &handle)?;
            let log = self.keep_log(&held, &handle);
            match ended {
                Ended::Succeeded => {
                    if let Some(done) = self.take(&mut held, bundle, &handle, found)? {
                        return Ok(done);
                    }
                }
                Ended::Cancelled => {
                    held.change(|record| {
                        end(record.attempts.last_mut(), None);
                        record.state = RecordState::Cancelled;
                    })?;
                    return Err(RemoteError::Cancelled { id: handle.id });
                }
                Ended::Failed(failure) => {
                    let failure = with_last_words(failure, &log);
                    held.change(|record| end(record.attempts.last_mut(), Some(failure.clone())))?;
                    let made = handle.id.attempt + 1 - first;
                    if let Some(told) = self.why_not_again(&held, &failure, made) {
                        held.change(|record| record.state = RecordState::Failed { failure: failure.clone() })?;
                        return Err(RemoteError::Failed { id: handle.id, failure, told });
                    }
                    tracing::warn!(
                        "attempt {} at job `{}` failed ({}): {}; another one goes on from its last checkpoint",
                        handle.id.attempt,
                        bundle.key,
                        failure.kind.name(),
                        failure.message
                    );
                }
            }
        }
    }

    /// The handle of the attempt that goes on, or of a new one; and whether the engine had that one without our record of it.
    fn submit(&self, held: &mut HeldJob, bundle: &Bundle) -> Result<(JobHandle, bool), RemoteError> {
        let open = held.record.attempts.last().filter(|attempt| attempt.ended_at.is_none()).cloned();
        let number = match open {
            Some(AttemptRecord { handle: Some(handle), .. }) => {
                self.tell("is taken up again", &handle.id);
                return Ok((handle, false));
            }
            Some(intent) => intent.number,
            None => {
                let number = last_number(held) + 1;
                let intended_at = Timestamp::now();
                held.change(|record| {
                    record.attempts.push(AttemptRecord {
                        number,
                        intended_at,
                        handle: None,
                        running_since: None,
                        ended_at: None,
                        failure: None,
                    });
                })?;
                number
            }
        };
        let id = bundle.key.attempt(number);
        let labels = [("tenant", &bundle.job.tenant_id), ("digest", &bundle.digest)];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.clone()));
        let submission = Submission {
            id: id.clone(),
            bundle,
            resources: &self.config.resources,
            timeout: self.config.timeout,
            queue_timeout: self.config.queue_timeout,
            labels: labels.into_iter().chain([("job".to_owned(), bundle.key.to_string())]).collect(),
        };
        // A host that was killed in between may have submitted it.
        let there = self.backend.find(&id)?;
        let found = there.is_some();
        let handle = match there {
            Some(handle) => handle,
            None => self.hand_in(&submission)?,
        };
        self.tell("is submitted", &id);
        held.change(|record| {
            if let Some(attempt) = record.attempts.last_mut() {
                attempt.handle = Some(handle.clone());
            }
        })?;
        Ok((handle, found))
    }

    /// Hands an attempt in. An engine without a queue is waited for as the queue of another would be.
    fn hand_in(&self, submission: &Submission<'_>) -> Result<JobHandle, RemoteError> {
        let stage = self.progress.stage("remote", 0);
        let start = Instant::now();
        loop {
            match self.backend.submit(submission) {
                Err(RemoteError::Busy { message, after, .. })
                    if start.elapsed() < self.config.queue_timeout && self.progress.check_stop().is_ok() =>
                {
                    stage.at(0, &format!("waits: {message}"));
                    thread::sleep(after.unwrap_or(LONGEST_LOOK).clamp(FIRST_LOOK, LONGEST_LOOK));
                }
                handed_in => return handed_in,
            }
        }
    }

    /// A line for people, whose job it is.
    fn tell(&self, what: &str, id: &JobId) {
        self.progress.stage("job", 0).finish(&format!("`{id}` {what}, {}", self.backend.describe()));
    }

    /// Waits for the end of an attempt; ends it where it takes too long.
    fn attend(&self, held: &mut HeldJob, handle: &JobHandle) -> Result<Ended, RemoteError> {
        let stage = self.progress.stage("remote", 0);
        let start = Instant::now();
        loop {
            let status = match self.backend.status(handle) {
                // The engine has forgotten it: so has it lost its machine.
                Err(error @ RemoteError::NotFound { .. }) => {
                    let (kind, message) = (FailureKind::NodeLost, error.to_string());
                    return Ok(Ended::Failed(Failure { kind, exit_code: None, message }));
                }
                status => status?,
            };
            let running = held.record.attempts.last().and_then(|attempt| attempt.running_since);
            if matches!(status.state, JobState::Running) && running.is_none() {
                held.change(|record| note_running(record.attempts.last_mut()))?;
            }
            match status.state {
                JobState::Succeeded => {
                    stage.finish("done");
                    return Ok(Ended::Succeeded);
                }
                JobState::Failed(failure) => return Ok(Ended::Failed(failure)),
                JobState::Cancelled => return Ok(Ended::Cancelled),
                JobState::Queued { .. } | JobState::Running => {}
            }
            let (step, told) = told(&status);
            stage.at(step, &told);
            if let Some(failure) = self.overdue(held, handle, &status.state) {
                self.end(handle)?;
                return Ok(Ended::Failed(failure));
            }
            if self.progress.check_stop().is_err() {
                let (key, engine) = (handle.id.key.clone(), self.backend.describe());
                return Err(RemoteError::Detached { key, engine });
            }
            thread::sleep((start.elapsed() / 20).clamp(FIRST_LOOK, LONGEST_LOOK));
        }
    }

    /// What ends a job that ends by no means of its own.
    fn overdue(&self, held: &HeldJob, handle: &JobHandle, state: &JobState) -> Option<Failure> {
        let since = |at: Timestamp| Duration::try_from(Timestamp::now().duration_since(at)).unwrap_or_default();
        match state {
            JobState::Queued { reason } if since(handle.submitted_at) > self.config.queue_timeout => {
                let reason = reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
                let waited = self.config.queue_timeout.as_secs();
                let message = format!(
                    "it waited {waited} s for a machine{reason}; raise `remote.queue_timeout`, or ask for less"
                );
                Some(Failure { kind: FailureKind::Unschedulable, exit_code: None, message })
            }
            JobState::Running => {
                let running = since(held.record.attempts.last()?.running_since?);
                let most = self.config.timeout + 2 * GRACE;
                let message = format!("it ran for {} s, and neither it nor the engine ended it", running.as_secs());
                (running > most).then_some(Failure { kind: FailureKind::Timeout, exit_code: None, message })
            }
            _ => None,
        }
    }

    /// Cancels an attempt, and waits until it is over.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn end(&self, handle: &JobHandle) -> Result<JobState, RemoteError> {
        self.backend.cancel(handle)?;
        let stage = self.progress.stage("remote", 0);
        let start = Instant::now();
        loop {
            stage.at(0, "waits for the end of what was cancelled");
            let state = match self.backend.status(handle) {
                Err(RemoteError::NotFound { .. }) => JobState::Cancelled,
                status => status?.state,
            };
            if state.is_final() || start.elapsed() > FAREWELL {
                return Ok(state);
            }
            thread::sleep(FIRST_LOOK);
        }
    }

    /// `None` where another attempt may help and is allowed.
    fn why_not_again(&self, held: &HeldJob, failure: &Failure, made: u32) -> Option<String> {
        if !failure.kind.is_worth_another_attempt() {
            return Some(String::new());
        }
        if made >= self.config.max_attempts {
            return Some(format!(
                "; {made} attempts were made (`remote.max_attempts`), and the same command makes more"
            ));
        }
        let now = Timestamp::now();
        let spent = held.record.attempts.iter().map(|attempt| attempt.on_machine(now)).sum();
        match cost::ceiling(self.config, 1, spent) {
            Ok(_) => None,
            Err(error) => Some(format!("; another attempt is not made: {error}")),
        }
    }

    /// The output of an attempt that is done. `None` where it left none and was `found` at the engine: engines remember names
    /// for longer than this host's records may have lived, and what was there before us may have been fetched and removed.
    fn take(
        &self,
        held: &mut HeldJob,
        bundle: &Bundle,
        handle: &JobHandle,
        found: bool,
    ) -> Result<Option<Done>, RemoteError> {
        let error = match self.fetch(held, bundle, handle) {
            Ok((folder, result)) => {
                held.change(|record| {
                    end(record.attempts.last_mut(), None);
                    record.state = RecordState::Finished;
                })?;
                if let Err(error) = self.backend.cleanup(&handle.id) {
                    tracing::warn!("what job `{}` left at the engine was not removed: {error}", bundle.key);
                }
                return Ok(Some(self.done(held, folder, result)));
            }
            Err(error @ RemoteError::NoArtefact { .. }) => error,
            Err(error) => return Err(error),
        };
        let failure = Failure { kind: FailureKind::Artefact, exit_code: None, message: error.to_string() };
        held.change(|record| end(record.attempts.last_mut(), Some(failure.clone())))?;
        if found {
            tracing::warn!("{error}: it is of an earlier time, and another attempt is made");
            return Ok(None);
        }
        held.change(|record| record.state = RecordState::Failed { failure })?;
        Err(error)
    }

    /// Copies the output here, once more where it comes damaged.
    fn fetch(&self, held: &HeldJob, bundle: &Bundle, handle: &JobHandle) -> Result<(PathBuf, JobResult), RemoteError> {
        let folder = held.folder().join(FETCHED);
        self.backend.fetch(handle, &folder)?;
        let result = match verify::output(&folder, bundle, &handle.id) {
            Err(RemoteError::Damaged { what, .. }) => {
                tracing::warn!("what job `{}` left came damaged ({what}): it is fetched once more", handle.id);
                self.backend.fetch(handle, &folder)?;
                verify::output(&folder, bundle, &handle.id)?
            }
            result => result?,
        };
        Ok((folder, result))
    }

    fn done(&self, held: &HeldJob, folder: PathBuf, result: JobResult) -> Done {
        let now = Timestamp::now();
        let spent = held.record.attempts.iter().map(|attempt| attempt.on_machine(now)).sum();
        let cost_usd = cost::of(self.config, spent);
        Done { folder, attempts: result.attempt, result, cost_usd }
    }

    /// The job's log, while the engine still has it; a copy stays for people. Empty where there is none.
    fn keep_log(&self, held: &HeldJob, handle: &JobHandle) -> String {
        let path = held.folder().join(format!("log-{}.txt", handle.id.attempt));
        let log = super::logs::whole(self.backend, handle);
        let log = log.inspect_err(|error| tracing::debug!("the log of job `{}` can't be had: {error}", handle.id));
        let log = log.unwrap_or_default();
        if let Err(error) = fs::write(&path, &log) {
            tracing::debug!("the log of job `{}` was not kept: {error}", handle.id);
        }
        String::from_utf8_lossy(&log).into_owned()
    }
}

/// What a process wrote last tells more than the code that it ended with, where it could not leave why.
fn with_last_words(failure: Failure, log: &str) -> Failure {
    let has_said_it = |text: &str| failure.message.lines().next().is_some_and(|line| text.contains(line));
    let last = log.lines().map(str::trim).rfind(|line| !line.is_empty()).filter(|_| failure.exit_code.is_some());
    match last.filter(|_| !has_said_it(log)) {
        Some(last) => Failure { message: format!("{}; its log ends with `{last}`", failure.message), ..failure },
        None => failure,
    }
}

fn told(status: &JobStatus) -> (u64, String) {
    match (&status.state, &status.heartbeat) {
        (JobState::Queued { reason }, _) => (0, reason.clone().unwrap_or_else(|| "waits for a machine".to_owned())),
        (_, Some(beat)) if beat.total_steps > 0 => {
            let loss = beat.loss.map(|loss| format!("  loss {loss:.4}")).unwrap_or_default();
            (beat.step as u64, format!("of {} steps{loss}", beat.total_steps))
        }
        (_, Some(beat)) => (0, beat.stage.clone()),
        (_, None) => (0, "runs".to_owned()),
    }
}

fn is_open(held: &HeldJob) -> bool {
    held.record.state == RecordState::Open && !held.record.attempts.is_empty()
}

fn last_number(held: &HeldJob) -> u32 {
    held.record.attempts.last().map_or(0, |attempt| attempt.number)
}

/// The attempt that the command which is gone on with began by; those before it failed for good.
fn first_of_round(held: &HeldJob) -> u32 {
    let attempts = &held.record.attempts;
    let retried = |attempt: &&AttemptRecord| {
        attempt.failure.as_ref().is_some_and(|failure| failure.kind.is_worth_another_attempt())
    };
    let open = attempts.iter().rev().skip(1).take_while(retried).count();
    attempts.len().checked_sub(1 + open).map_or(1, |index| attempts[index].number)
}

fn note_running(attempt: Option<&mut AttemptRecord>) {
    if let Some(attempt) = attempt {
        attempt.running_since = Some(Timestamp::now());
    }
}

fn end(attempt: Option<&mut AttemptRecord>, failure: Option<Failure>) {
    if let Some(attempt) = attempt {
        attempt.ended_at = Some(Timestamp::now());
        attempt.failure = failure;
    }
}

#[cfg(test)]
mod tests;
