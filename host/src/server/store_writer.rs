//! One thread owns a store: it writes what waits as one transaction, and then answers everybody who waited.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::ErrorCode;
use tokio::sync::oneshot;

use super::access::TenantAccess;
use super::counters::Counters;
use super::disk::{Disk, disk_full};
use super::error::ServerError;
use super::refusal::Refusal;
use super::room::{Budget, Room};
use crate::config::ServeConfig;
use crate::telemetry::{Annotated, Feedback, SpanRow, TelemetryError, TelemetryStore};

/// Rows of a transaction, some 100 ms: other writers of the store wait for its end.
const MOST_ROWS: usize = 4096;

/// Pages of indices are written by every transaction, span ids being random, and once for all of them when the log goes to the
/// store: at SQLite's 4 MiB, transactions of 500 spans took 2.6 GB of writes for what takes 1.7 GB so, and 5.1 s of a processor for
/// 3.9 s.
const LOG_BYTES: u32 = 64 << 20;

/// What a request wants written.
pub(super) enum Work {
    /// Each with its project.
    Spans(Vec<(String, SpanRow)>),
    Feedback(Vec<Feedback>),
}

/// What was written, and is on the disk.
#[derive(Debug, PartialEq)]
pub(super) enum Written {
    Spans,
    Feedback(Vec<Annotated>),
    /// Nothing: the span of the feedback with this index is not there.
    UnknownSpan(usize),
}

struct Job {
    work: Work,
    room: Room,
    reply: oneshot::Sender<Result<Written, Refusal>>,
}

/// The way to the thread of a store.
pub(super) struct StoreWriter {
    queue: SyncSender<Job>,
    pub(super) budget: Arc<Budget>,
    disk: Disk,
    patience: Duration,
}

/// Opens a tenant's store and starts its thread, which ends with the [`StoreWriter`].
pub(super) fn start(
    access: &TenantAccess,
    config: &ServeConfig,
    counters: &Arc<Counters>,
) -> Result<(StoreWriter, JoinHandle<()>), ServerError> {
    if let Some(folder) = access.store.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|source| ServerError::Folder { path: folder.to_owned(), source })?;
    }
    let mut store = TelemetryStore::open_or_create(&access.store)?;
    // A third, so that an answer comes before its request is given up.
    // Of a small store the log is no large part.
    let share = access.store_quota.and_then(|quota| u32::try_from(quota / 16).ok());
    let log_bytes = share.map_or(LOG_BYTES, |share| share.min(LOG_BYTES));
    store.be_durable(config.request_timeout / 3, log_bytes)?;
    // A connection has one request at a time.
    let (queue, jobs) = sync_channel(config.max_connections);
    let thread = std::thread::Builder::new().name(format!("store {}", access.tenant_id));
    let owner = Owner { store, tenant: access.tenant_id.clone(), counters: Arc::clone(counters) };
    let handle = thread.spawn(move || owner.write_all(&jobs)).map_err(ServerError::Runtime)?;
    let writer = StoreWriter {
        queue,
        budget: Budget::new(config.queue_memory),
        disk: Disk::new(&access.store, access.store_quota),
        patience: config.request_timeout,
    };
    Ok((writer, handle))
}

impl StoreWriter {
    /// Whether the disk has room for what waits and `bytes` more.
    pub(super) fn check_disk(&self, bytes: usize) -> Result<(), Refusal> {
        self.disk.check(self.budget.used().saturating_add(bytes))
    }

    /// Ends when the work is on the disk, or will not be there by it.
    pub(super) async fn write(&self, work: Work, room: Room) -> Result<Written, Refusal> {
        let (reply, written) = oneshot::channel();
        self.queue.try_send(Job { work, room, reply }).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::unavailable("too many requests wait: send it again"),
            TrySendError::Disconnected(_) => ended(),
        })?;
        match tokio::time::timeout(self.patience, written).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) => Err(ended()),
            // It may be stored yet; sent again, it changes nothing.
            Err(_) => {
                let waited = self.patience.as_secs();
                Err(Refusal::unavailable(format!("the request was not stored within {waited} s: send it again")))
            }
        }
    }
}

fn ended() -> Refusal {
    Refusal::unavailable(
        "the writer of the store has ended: this server's operator looks at its log and starts it again",
    )
}

/// What the thread has.
struct Owner {
    store: TelemetryStore,
    tenant: String,
    counters: Arc<Counters>,
}

impl Owner {
    fn write_all(mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut rows = first.work.rows();
            let mut group = vec![first];
            while rows < MOST_ROWS
                && let Ok(job) = jobs.try_recv()
            {
                rows += job.work.rows();
                group.push(job);
            }
            self.write_group(group, rows);
        }
    }

    fn write_group(&mut self, group: Vec<Job>, rows: usize) {
        let start = Instant::now();
        match self.commit(&group) {
            Ok(written) => {
                let (tenant, requests, took) = (&self.tenant, group.len(), start.elapsed().as_millis());
                tracing::info!("`{tenant}`: {rows} rows of {requests} requests stored in {took} ms");
                for (Job { work, room, reply }, written) in group.into_iter().zip(written) {
                    self.count(&work, &written);
                    // Before the answer: what is stored does not wait, and counts once against a quota.
                    drop((work, room));
                    let _ = reply.send(Ok(written)); // who asked may have gone
                }
            }
            Err(error) => {
                tracing::warn!("`{}`: {} requests are not stored: {error}", self.tenant, group.len());
                let refusal = refusal(&error);
                for job in group {
                    let _ = job.reply.send(Err(refusal.clone()));
                }
            }
        }
    }

    fn commit(&mut self, group: &[Job]) -> Result<Vec<Written>, TelemetryError> {
        let mut writer = self.store.transaction();
        let mut written = Vec::with_capacity(group.len());
        for job in group {
            written.push(match &job.work {
                Work::Spans(rows) => {
                    for (project, row) in rows {
                        writer.put_row(project, row)?;
                    }
                    Written::Spans
                }
                Work::Feedback(feedback) => match writer.annotate(feedback)? {
                    Ok(annotated) => Written::Feedback(annotated),
                    Err(index) => Written::UnknownSpan(index),
                },
            });
        }
        writer.finish()?;
        Ok(written)
    }

    fn count(&self, work: &Work, written: &Written) {
        let counter = match written {
            Written::Spans => &self.counters.spans,
            Written::Feedback(_) => &self.counters.annotations,
            Written::UnknownSpan(_) => return,
        };
        Counters::add(counter, work.rows());
    }
}

impl Work {
    fn rows(&self) -> usize {
        match self {
            Self::Spans(rows) => rows.len(),
            Self::Feedback(feedback) => feedback.len(),
        }
    }
}

/// What a client is told. The operator reads the error itself in the log: it has paths in it.
fn refusal(error: &TelemetryError) -> Refusal {
    let code = match error {
        TelemetryError::Database { cause, .. } => cause.sqlite_error_code(),
        _ => None,
    };
    match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Refusal::unavailable("another program writes to the store, and did not end: send it again")
        }
        Some(ErrorCode::DiskFull) => Refusal::full(disk_full("a write failed")),
        _ => Refusal::unavailable("the store cannot be written: this server's operator finds why in its log"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::bindings::types::{Span, SpanKind, SpanStatus};

    fn row(number: u64, name_bytes: usize) -> SpanRow {
        SpanRow::new(&Span {
            span_id: format!("{number:016x}"),
            trace_id: format!("{number:032x}"),
            parent_id: None,
            name: "n".repeat(name_bytes),
            kind: SpanKind::Agent,
            status: SpanStatus::Ok,
            start_time_ns: 1,
            end_time_ns: 2,
            attributes: vec![],
            annotations: vec![],
            document_annotations: vec![],
        })
    }

    #[test]
    fn what_a_full_disk_has_no_room_for_is_refused_whole_and_the_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = TelemetryStore::open_or_create(&folder.path().join("t.sqlite")).unwrap();
        let counters = Arc::new(Counters::default());
        let mut owner = Owner { store, tenant: "acme".to_owned(), counters: Arc::clone(&counters) };
        let budget = Budget::new(1 << 30);
        let write = |owner: &mut Owner, numbers: [u64; 2], bytes: usize| {
            let (jobs, answers): (Vec<_>, Vec<_>) = numbers
                .map(|number| {
                    let (reply, answer) = oneshot::channel();
                    let work = Work::Spans(vec![("default".to_owned(), row(number, bytes))]);
                    (Job { work, room: budget.room(), reply }, answer)
                })
                .into_iter()
                .unzip();
            owner.write_group(jobs, 2);
            answers.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(write(&mut owner, [0, 1], 10), [Ok(Written::Spans), Ok(Written::Spans)]);
        owner.store.cannot_grow(true);
        let refusal = Refusal::full(disk_full("a write failed"));
        assert_eq!(refusal.status.as_u16(), 429);
        assert_eq!(write(&mut owner, [2, 3], 100_000), [Err(refusal.clone()), Err(refusal)]);
        assert_eq!(owner.store.count_spans("default").unwrap(), 2);
        owner.store.cannot_grow(false);
        assert_eq!(write(&mut owner, [2, 3], 100_000), [Ok(Written::Spans), Ok(Written::Spans)]);
        assert_eq!(owner.store.count_spans("default").unwrap(), 4);
        assert_eq!(counters.received().spans, 4);
    }
}
