//! `tunesmith jobs`: what is trained elsewhere.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use super::{Answer, interrupt};
use crate::cli::{JobArgs, JobsCommand, RunsArgs};
use crate::config::{RemoteConfig, ReviewConfig};
use crate::error::HostError;
use crate::job::Bundle;
use crate::progress::Progress;
use crate::remote::{
    self, Drive, JobRecord, JobState, JobStore, Persistent, RecordState, RemoteError, TrainingBackend,
};
use crate::report;
use crate::run_dir;
use crate::tenants::Scope;

const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) fn run(scope: &Scope, command: JobsCommand, progress: &Progress) -> Result<Answer, HostError> {
    match command {
        JobsCommand::List(args) => list(scope, &store(scope, &args)?),
        JobsCommand::Show(args) => {
            let (_, record) = find(scope, &args)?;
            let engine = backend(scope, &record).map(|(engine, _)| engine)?;
            let text = format!("{}\n{}", row(&record, &stands(&engine, &record)).join("  "), attempts(&record));
            Ok(Answer::new(text, &record))
        }
        JobsCommand::Logs { job, follow } => logs(scope, &job, follow),
        JobsCommand::Wait(args) => wait(scope, &args, progress),
        JobsCommand::Cancel(args) => cancel(scope, &args, progress),
        JobsCommand::Remove { job, only_here } => remove(scope, &job, only_here),
        JobsCommand::Fetch { job, out } => {
            scope.check_write("--out", &out)?;
            let done = attended(scope, &job, progress)?;
            run_dir::make_whole(&out, |folder| copy_all(&done.folder, folder))?;
            Ok(Answer::new(format!("the output of job `{}` is in `{}`", job.job, out.display()), &done.result))
        }
    }
}

fn store(scope: &Scope, args: &RunsArgs) -> Result<JobStore, HostError> {
    let (options, _) = scope.load(args.store.config.as_deref(), &args.options())?;
    let store = JobStore::beside(&ReviewConfig::new(&options)?.approvals);
    scope.check_write("review.approvals", store.folder())?;
    Ok(store)
}

fn find(scope: &Scope, args: &JobArgs) -> Result<(JobStore, JobRecord), HostError> {
    let store = store(scope, &args.store)?;
    let record = store.get(&args.job)?;
    Ok((store, record))
}

fn backend(scope: &Scope, record: &JobRecord) -> Result<(Persistent, RemoteConfig), HostError> {
    let config = RemoteConfig::new(&scope.restore(record.options.clone())?)?;
    Ok((Persistent::new(remote::open(&config)?), config))
}

fn list(scope: &Scope, store: &JobStore) -> Result<Answer, HostError> {
    let records = store.list()?;
    if records.is_empty() {
        return Ok(Answer::new("no job was submitted to another machine", &records));
    }
    let mut table = report::table();
    table.set_header(["job", "run", "engine", "since", "state"]);
    for record in &records {
        let stands = match record.state {
            // A job that nobody attends goes on all the same.
            RecordState::Open => match backend(scope, record) {
                Ok((engine, _)) => stands(&engine, record),
                Err(error) => format!("{} ({})", record.state_name(), error.describe()),
            },
            _ => record.state_name().to_owned(),
        };
        table.add_row(row(record, &stands));
    }
    Ok(Answer::new(table, &records))
}

fn row(record: &JobRecord, stands: &str) -> [String; 5] {
    let since = record.created_at.strftime("%Y-%m-%d %H:%M UTC").to_string();
    [record.key.to_string(), record.name.clone(), record.engine.clone(), since, stands.to_owned()]
}

/// By the engine's word, where it has one.
fn stands(engine: &Persistent, record: &JobRecord) -> String {
    let known = record.state_name().to_owned();
    let (RecordState::Open, Some(handle)) = (&record.state, record.handle()) else { return known };
    match engine.status(handle) {
        Ok(status) => match (status.state, status.heartbeat) {
            (JobState::Running, Some(beat)) => format!("running, step {} of {}", beat.step, beat.total_steps),
            (JobState::Running, None) => "running".to_owned(),
            (JobState::Queued { reason }, _) => {
                format!("queued{}", reason.map(|why| format!(" ({why})")).unwrap_or_default())
            }
            (JobState::Succeeded, _) => "done; `tunesmith jobs wait` fetches it".to_owned(),
            (JobState::Failed(failure), _) => format!("failed ({}): {}", failure.kind.name(), failure.message),
            (JobState::Cancelled, _) => "cancelled".to_owned(),
        },
        Err(error) => format!("{known}, and {error}"),
    }
}

fn attempts(record: &JobRecord) -> String {
    let mut table = report::table();
    table.set_header(["attempt", "submitted", "at the engine", "ended", "why"]);
    let time = |at: jiff::Timestamp| at.strftime("%Y-%m-%d %H:%M:%S").to_string();
    for attempt in &record.attempts {
        table.add_row([
            attempt.number.to_string(),
            time(attempt.intended_at),
            attempt.handle.as_ref().map(|handle| handle.native.clone()).unwrap_or_default(),
            attempt.ended_at.map(time).unwrap_or_default(),
            attempt.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default(),
        ]);
    }
    table.to_string()
}

fn logs(scope: &Scope, args: &JobArgs, follow: bool) -> Result<Answer, HostError> {
    let (store, record) = find(scope, args)?;
    let out = |bytes: &[u8]| io::stdout().write_all(bytes).map_err(HostError::io("write", "standard output".as_ref()));
    let shown = |record: &JobRecord| Answer { aside: true, ..Answer::new("", record) };
    let last = record.attempts.last().map_or(1, |attempt| attempt.number);
    let kept = store.folder_of(&record.key).join(format!("log-{last}.txt"));
    if let Ok(log) = std::fs::read(&kept) {
        out(&log)?;
        return Ok(shown(&record));
    }
    let Some(handle) = record.handle() else { return Ok(shown(&record)) };
    let (engine, _) = backend(scope, &record)?;
    let (stop, mut from) = (interrupt::watch(), 0);
    loop {
        let over = !follow || engine.status(handle)?.state.is_final();
        loop {
            let chunk = engine.logs(handle, from)?;
            if chunk.bytes.is_empty() {
                break;
            }
            out(&chunk.bytes)?;
            from = chunk.next;
        }
        if over || stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(shown(&record));
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn wait(scope: &Scope, args: &JobArgs, progress: &Progress) -> Result<Answer, HostError> {
    let done = attended(scope, args, progress)?;
    let folder = done.folder.display();
    let text = format!(
        "the output of the job is in `{folder}`; the command that submitted it makes the adapter's folder of it, or \
         `tunesmith jobs fetch` copies it"
    );
    Ok(Answer::new(text, &done.result))
}

fn attended(scope: &Scope, args: &JobArgs, progress: &Progress) -> Result<remote::Done, HostError> {
    let (store, record) = find(scope, args)?;
    record.check_goes_on()?;
    let (engine, config) = backend(scope, &record)?;
    let bundle = Bundle::open(&store.folder_of(&record.key).join("bundle"))?;
    let progress = progress.clone().stopped_by(interrupt::watch());
    Ok(Drive { backend: &engine, config: &config, jobs: &store, progress: &progress }.run(&bundle)?)
}

/// Whoever attends it sees its end; where nobody does, it is noted here.
fn cancel(scope: &Scope, args: &JobArgs, progress: &Progress) -> Result<Answer, HostError> {
    let (store, record) = find(scope, args)?;
    let (engine, config) = backend(scope, &record)?;
    let Some(last) = record.attempts.last().filter(|_| record.state == RecordState::Open) else {
        return Ok(Answer::new(format!("job `{}` is over already: {}", record.key, record.state_name()), &record));
    };
    // A submission whose answer was lost is found by its name.
    let handle = match &last.handle {
        Some(handle) => Some(handle.clone()),
        None => engine.find(&record.key.attempt(last.number))?,
    };
    if let Some(handle) = &handle {
        let drive = Drive { backend: &engine, config: &config, jobs: &store, progress };
        let state = drive.end(handle)?;
        if !state.is_final() {
            tracing::warn!("{} has taken the request, and the job has not ended yet", engine.describe());
        }
    }
    match store.hold(record.key.as_str()) {
        Ok(mut held) => held.change(|record| {
            record.state = RecordState::Cancelled;
            if let Some(last) = record.attempts.last_mut() {
                last.ended_at.get_or_insert_with(jiff::Timestamp::now);
            }
        })?,
        // Whoever attends it sees it end; one that is not handed in yet, nobody but them can keep from it.
        Err(RemoteError::Held { .. }) if handle.is_some() => {}
        Err(error) => return Err(error.into()),
    }
    let record = store.get(record.key.as_str())?;
    Ok(Answer::new(format!("job `{}` is cancelled", record.key), &record))
}

fn remove(scope: &Scope, args: &JobArgs, only_here: bool) -> Result<Answer, HostError> {
    let (store, record) = find(scope, args)?;
    let held = store.hold(record.key.as_str())?;
    let record = held.record.clone();
    if record.state == RecordState::Open {
        return Err(RemoteError::Open { key: record.key }.into());
    }
    if !only_here {
        let (engine, _) = backend(scope, &record)?;
        for attempt in &record.attempts {
            engine.cleanup(&record.key.attempt(attempt.number))?;
        }
    }
    held.remove()?;
    let from = if only_here { "here".to_owned() } else { format!("here and at {}", record.engine) };
    Ok(Answer::new(format!("nothing is left of job `{}`, {from}", record.key), &record))
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) -> Result<(), HostError> {
    std::fs::create_dir_all(to).map_err(HostError::io("create", to))?;
    for entry in std::fs::read_dir(from).map_err(HostError::io("list", from))? {
        let path = entry.map_err(HostError::io("list", from))?.path();
        let Some(name) = path.file_name() else { continue };
        match path.is_dir() {
            true => copy_all(&path, &to.join(name))?,
            false => drop(std::fs::copy(&path, to.join(name)).map_err(HostError::io("copy", &path))?),
        }
    }
    Ok(())
}
