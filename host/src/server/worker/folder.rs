//! What a worker keeps on the disk.
//!
//! ```text
//! jobs/  worker.lock              held by the one process that serves the folder
//!        incoming/                bundles that are not whole yet
//!        <key>/  bundle/          what was handed in; the same for all attempts
//!                out/             what the trainer writes; likewise
//!                out.lock         held by the trainer as long as it lives, whoever else has ended
//!                attempts/  1.json  1.log
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::job::{FAILURE_FILE, Failure, HEARTBEAT_FILE, Heartbeat, JobResult, RESULT_FILE};
use crate::remote::worker::contract::{JobView, LONGEST_LOG, Stage};

/// The longest key of a job has 37 characters.
const LONGEST_KEY: usize = 60;
/// Bytes at the end of a log in which its last line is looked for.
const LAST_LINE: u64 = 2000;

/// An attempt's name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) key: String,
    pub(super) attempt: u32,
}

/// What is kept of an attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) digest: String,
    pub(super) state: Stage,
    pub(super) submitted_at: Timestamp,
    /// Seconds that it may take, by its job.
    pub(super) timeout_s: u64,
    pub(super) cancel_asked: bool,
    pub(super) exit_code: Option<i32>,
    pub(super) failure: Option<Failure>,
}

/// A job's folder.
#[derive(Debug, Clone)]
pub(super) struct JobFolder(PathBuf);

impl Name {
    /// None for what is no attempt's name: it becomes a path.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (key, attempt) = text.rsplit_once('-')?;
        let plain = key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        let named = key.len() <= LONGEST_KEY && key.starts_with(|c: char| c.is_ascii_lowercase()) && plain;
        let number: u32 = attempt.parse().ok()?;
        // One spelling: `01` would be another file of the same attempt.
        (named && number > 0 && number.to_string() == attempt).then(|| Self { key: key.to_owned(), attempt: number })
    }
}

impl Record {
    pub(super) fn is_final(&self) -> bool {
        !matches!(self.state, Stage::Queued | Stage::Running)
    }
}

impl JobFolder {
    pub(super) fn new(jobs: &Path, key: &str) -> Self {
        Self(jobs.join(key))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    pub(super) fn out(&self) -> PathBuf {
        self.0.join("out")
    }

    pub(super) fn log(&self, attempt: u32) -> PathBuf {
        self.0.join(format!("attempts/{attempt}.log"))
    }

    fn record_path(&self, attempt: u32) -> PathBuf {
        self.0.join(format!("attempts/{attempt}.json"))
    }

    /// Held by who trains: nobody else does as long as it is.
    pub(super) fn lock(&self) -> io::Result<File> {
        File::options().read(true).write(true).create(true).truncate(false).open(self.0.join("out.lock"))
    }

    /// What is known of an attempt.
    pub(super) fn record(&self, attempt: u32) -> io::Result<Option<Record>> {
        match fs::read(self.record_path(attempt)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => Ok(Some(serde_json::from_slice(&read?)?)),
        }
    }

    /// Whole, and on the disk when it returns.
    pub(super) fn write(&self, attempt: u32, record: &Record) -> io::Result<()> {
        let folder = self.0.join("attempts");
        fs::create_dir_all(&folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.as_file().sync_all()?;
        file.persist(self.record_path(attempt)).map_err(|error| error.error)?;
        File::open(&folder)?.sync_all()
    }

    /// As if there had never been such an attempt.
    pub(super) fn forget(&self, attempt: u32) -> io::Result<()> {
        fs::remove_file(self.record_path(attempt))
    }

    /// The attempts that had not ended when they were last written of.
    pub(super) fn unfinished(&self) -> Vec<(u32, Record)> {
        let entries = fs::read_dir(self.0.join("attempts")).into_iter().flatten().flatten();
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".json")?.parse::<u32>().ok();
        let record = |attempt| Some((attempt, self.record(attempt).ok()??));
        entries.filter_map(number).filter_map(record).filter(|(_, record)| !record.is_final()).collect()
    }

    /// As a client is told of it.
    pub(super) fn view(&self, attempt: u32, record: Record) -> JobView {
        let heartbeat = self.read::<Heartbeat>(HEARTBEAT_FILE).filter(|heartbeat| heartbeat.attempt == attempt);
        let age = Timestamp::now().duration_since(record.submitted_at).as_secs();
        JobView {
            id: record.id,
            digest: record.digest,
            state: record.state,
            reason: None,
            exit_code: record.exit_code,
            failure: record.failure,
            heartbeat,
            submitted_at: record.submitted_at,
            age_s: u64::try_from(age).unwrap_or(0),
        }
    }

    /// Whether the job with this digest left its result.
    pub(super) fn has_result(&self, digest: &str) -> bool {
        self.read::<JobResult>(RESULT_FILE).is_some_and(|result| result.digest == digest)
    }

    /// What the last attempt told of its failure.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.read(FAILURE_FILE)
    }

    /// Before another attempt: nothing that the one before said of its end is taken for this one's.
    pub(super) fn forget_failure(&self) -> io::Result<()> {
        match fs::remove_file(self.out().join(FAILURE_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.out().join(name)).ok()?).ok()
    }

    /// A piece of a log.
    pub(super) fn read_log(&self, attempt: u32, from: u64) -> io::Result<Vec<u8>> {
        let mut file = match File::open(self.log(attempt)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(LONGEST_LOG).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The last line of a log, without blanks around it.
    pub(super) fn last_words(&self, attempt: u32) -> Option<String> {
        let length = fs::metadata(self.log(attempt)).ok()?.len();
        let bytes = self.read_log(attempt, length.saturating_sub(LAST_LINE)).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_key_and_the_number_of_an_attempt() {
        let name = Name::parse("acme-0123456789abcdef0123-2").unwrap();
        assert_eq!((name.key.as_str(), name.attempt), ("acme-0123456789abcdef0123", 2));
        for none in ["", "acme", "acme-", "acme-0", "acme-01", "acme-+1", "../acme-1", "Acme-1", "-1", "a.b-1", "a/b-1"]
        {
            assert_eq!(Name::parse(none), None, "{none}");
        }
    }
}
