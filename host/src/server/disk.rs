//! Room on the disk: a store's quota, and what is kept free for everybody else.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::refusal::Refusal;

/// What a full disk breaks is not ours alone.
const KEPT_FREE: u64 = 64 << 20;

/// The files of a store.
#[derive(Debug)]
pub(super) struct Disk {
    store: PathBuf,
    log: PathBuf,
    quota: Option<u64>,
    /// The operator is told once each time, not for each request.
    told: AtomicBool,
}

impl Disk {
    pub(super) fn new(store: &Path, quota: Option<u64>) -> Self {
        let mut log = store.as_os_str().to_owned();
        log.push("-wal");
        Self { store: store.to_owned(), log: log.into(), quota, told: AtomicBool::new(false) }
    }

    /// Whether `waiting` bytes more would be too many. What is asked is the disk, so that a quota that was raised, or a
    /// file that was removed, counts at once.
    pub(super) fn check(&self, waiting: usize) -> Result<(), Refusal> {
        let full = self.over_quota(waiting).or_else(|| self.nearly_full(waiting));
        let Some(what) = full else {
            self.told.store(false, Ordering::Relaxed);
            return Ok(());
        };
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!("`{}` takes in nothing more: {what}", self.store.display());
        }
        Err(Refusal::full(what))
    }

    fn over_quota(&self, waiting: usize) -> Option<String> {
        let quota = self.quota?;
        let taken: u64 = [&self.store, &self.log].map(|file| file.metadata().map_or(0, |file| file.len())).iter().sum();
        (taken.saturating_add(waiting as u64) >= quota).then(|| {
            format!(
                "the telemetry store is at its quota of {quota} bytes, and nothing more is taken in: this server's operator \
                 raises `store_quota`, or starts it with another store"
            )
        })
    }

    fn nearly_full(&self, waiting: usize) -> Option<String> {
        let folder = self.store.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // A file system that does not say is not one to refuse telemetry for.
        let disk = rustix::fs::statvfs(folder).ok()?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        (free < KEPT_FREE.saturating_add(waiting as u64)).then(|| disk_full(&format!("{free} bytes are free")))
    }
}

pub(super) fn disk_full(how: &str) -> String {
    format!(
        "the disk of the telemetry store is full ({how}), and nothing more is taken in: this server's operator makes room, or \
         starts it with a store on another disk"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_counts_the_store_its_log_and_what_waits() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("t.sqlite");
        std::fs::write(&store, [0; 60]).unwrap();
        std::fs::write(folder.path().join("t.sqlite-wal"), [0; 30]).unwrap();
        let disk = Disk::new(&store, Some(100));
        assert_eq!(disk.check(9), Ok(()));
        let refusal = disk.check(10).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.retry_after_s), (429, Some(60)));
        assert_eq!(
            refusal.message,
            "the telemetry store is at its quota of 100 bytes, and nothing more is taken in: this server's operator raises \
             `store_quota`, or starts it with another store"
        );
        std::fs::remove_file(folder.path().join("t.sqlite-wal")).unwrap();
        assert_eq!(disk.check(10), Ok(()));
        assert_eq!(Disk::new(&store, None).check(1 << 20), Ok(()));
    }

    #[test]
    fn a_disk_that_would_be_full_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = Disk::new(&folder.path().join("t.sqlite"), None).check(usize::MAX / 2).unwrap_err();
        assert_eq!(refusal.status.as_u16(), 429);
        assert!(refusal.message.starts_with("the disk of the telemetry store is full ("), "{}", refusal.message);
    }
}
