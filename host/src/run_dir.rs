//! The only writer of run outputs. A run's folder is whole or absent: it is filled under a temporary name in the
//! folder of all runs, flushed to disk, and renamed. One with a checkpoint outlives the run that fills it, so that
//! another can go on.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::HostError;

/// A run's folder that is being filled; gone with everything in it, unless [`RunDir::commit`] is called or it has a
/// checkpoint.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    output_dir: PathBuf,
    name: String,
    /// Held while the run lives: a folder that nobody locks was left by a run that was stopped.
    _lock: Option<File>,
}

/// In the name of a folder that is being filled.
pub(crate) const UNFINISHED: &str = ".unfinished-";

/// The folder of a run's folder that is there only while it trains.
const CHECKPOINT_DIR: &str = "checkpoint";

/// The trainer's state, in that folder.
const STATE_FILE: &str = "state.safetensors";

impl RunDir {
    /// Starts a folder that will be called `{run}_{YYYYMMDD_HHMMSS}` (UTC) in `output_dir`, which is created where it
    /// is missing; `run` is `{method}_{agent}`. Removes what stopped runs left there without a checkpoint, and tells of
    /// those of `run` that have one.
    ///
    /// # Errors
    /// [`HostError::Io`] where `output_dir` can't be written.
    pub fn create(output_dir: &Path, run: &str, start: jiff::Timestamp) -> Result<Self, HostError> {
        let name = format!("{run}_{}", start.strftime("%Y%m%d_%H%M%S"));
        fs::create_dir_all(output_dir).map_err(HostError::io("create", output_dir))?;
        // Until the new folder is locked, so that no other run takes it for an abandoned one.
        let creating = lock(output_dir);
        if creating.is_some() {
            tidy(output_dir, run);
        }
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".{name}{UNFINISHED}"))
            .permissions(Permissions::from_mode(0o777)) // less the umask: who may read adapters is its user's choice
            .tempdir_in(output_dir)
            .map_err(HostError::io("create a folder in", output_dir))?
            .keep();
        // As the user wrote it, not from the root.
        let path = temporary.file_name().map_or_else(|| temporary.clone(), |name| output_dir.join(name));
        let lock = lock(&path);
        let run_dir = Self { path, output_dir: output_dir.to_owned(), name, _lock: lock };
        let checkpoints = run_dir.path.join(CHECKPOINT_DIR);
        fs::create_dir(&checkpoints).map_err(HostError::io("create", &checkpoints))?;
        Ok(run_dir)
    }

    /// Takes over the newest folder of `run` in `output_dir` that was left with a checkpoint.
    ///
    /// # Errors
    /// [`HostError::NothingToResume`] where there is none.
    pub fn resume(output_dir: &Path, run: &str) -> Result<Self, HostError> {
        let left = unfinished(output_dir);
        let mut own: Vec<_> = left.iter().filter(|left| left.run() == Some(run) && left.has_checkpoint()).collect();
        own.sort_by(|a, b| a.name.cmp(&b.name)); // the names end in the time
        for Unfinished { path, name } in own.iter().rev() {
            let folder = File::open(path).map_err(HostError::io("open", path))?;
            if folder.try_lock().is_ok() {
                let (path, name) = (path.clone(), name.clone());
                return Ok(Self { path, output_dir: output_dir.to_owned(), name, _lock: Some(folder) });
            }
        }
        let what = match own.last() {
            Some(alive) => format!("`{}` is being filled by a run that is still going on", alive.path.display()),
            None => match left.iter().find(|left| left.has_checkpoint()) {
                Some(other) => format!("what is there is another run's, `{}`", other.path.display()),
                None => "no run was stopped there after its first checkpoint".to_owned(),
            },
        };
        Err(HostError::NothingToResume { run: run.to_owned(), output_dir: output_dir.to_owned(), what })
    }

    /// The trainer's state: present once the first checkpoint is.
    pub fn state_file(&self) -> PathBuf {
        self.path.join(CHECKPOINT_DIR).join(STATE_FILE)
    }

    /// A file beside the trainer's state, which the committed folder won't have.
    pub fn scratch_file(&self, name: &str) -> PathBuf {
        self.path.join(CHECKPOINT_DIR).join(name)
    }

    /// Removes the folder, and the checkpoint in it.
    pub fn discard(self) {
        let _ = fs::remove_file(self.state_file()); // the rest goes as where there never was one
    }

    /// Where to write until the commit.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a file.
    ///
    /// # Errors
    /// [`HostError::Io`].
    pub fn file(&self, name: &str) -> Result<io::BufWriter<File>, HostError> {
        let path = self.path().join(name);
        File::create(&path).map(io::BufWriter::new).map_err(HostError::io("create", &path))
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// [`HostError::Io`].
    pub fn write(&self, name: &str, text: &str) -> Result<(), HostError> {
        let path = self.path().join(name);
        fs::write(&path, text).map_err(HostError::io("write", &path))
    }

    /// Writes a value as indented JSON.
    ///
    /// # Errors
    /// [`HostError::Io`].
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), HostError> {
        let path = self.path().join(name);
        let text = serde_json::to_string_pretty(value).map_err(|error| HostError::io("write", &path)(error.into()))?;
        self.write(name, &(text + "\n"))
    }

    /// Flushes everything but the checkpoint to disk and gives the folder its name, with a suffix `_2`, `_3`, ... where
    /// that is taken.
    ///
    /// # Errors
    /// [`HostError::Io`]; what has no checkpoint is gone then.
    pub fn commit(self) -> Result<PathBuf, HostError> {
        flush(self.path()).map_err(HostError::io("flush", self.path()))?;
        for n in 1u32.. {
            let name = if n == 1 { self.name.clone() } else { format!("{}_{n}", self.name) };
            let path = self.output_dir.join(name);
            if path.symlink_metadata().is_ok() {
                continue;
            }
            match fs::rename(self.path(), &path) {
                // From here on there is nothing left to remove under the old name.
                Ok(()) => {
                    let checkpoints = path.join(CHECKPOINT_DIR);
                    fs::remove_dir_all(&checkpoints).map_err(HostError::io("remove", &checkpoints))?;
                    flush_one(&self.output_dir).map_err(HostError::io("flush", &self.output_dir))?;
                    return Ok(path);
                }
                // Another run took the name in between: a rename never replaces a folder that has files.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {}
                Err(error) => return Err(HostError::io("name", &path)(error)),
            }
        }
        unreachable!("four billion runs within one second")
    }
}

/// `None` where the file system has no locks: then nothing is ever taken for abandoned.
fn lock(dir: &Path) -> Option<File> {
    let file = File::open(dir).ok()?;
    file.lock().ok()?;
    Some(file)
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.state_file().is_file() {
            let _ = fs::remove_dir_all(&self.path); // what can't be removed now is tried again by the next run
        }
    }
}

/// A folder that was or is being filled.
struct Unfinished {
    path: PathBuf,
    /// The name that it would have got.
    name: String,
}

impl Unfinished {
    /// `{method}_{agent}`: the name without `_YYYYMMDD_HHMMSS`.
    fn run(&self) -> Option<&str> {
        self.name.len().checked_sub("_YYYYMMDD_HHMMSS".len()).and_then(|end| self.name.get(..end))
    }

    fn has_checkpoint(&self) -> bool {
        self.path.join(CHECKPOINT_DIR).join(STATE_FILE).is_file()
    }

    fn is_abandoned(&self) -> bool {
        File::open(&self.path).is_ok_and(|folder| folder.try_lock().is_ok())
    }
}

fn unfinished(output_dir: &Path) -> Vec<Unfinished> {
    let entries = fs::read_dir(output_dir).into_iter().flatten().flatten();
    let unfinished = entries.filter_map(|entry| {
        let file_name = entry.file_name();
        let (name, _) = file_name.to_str()?.strip_prefix('.')?.split_once(UNFINISHED)?;
        Some(Unfinished { path: entry.path(), name: name.to_owned() })
    });
    unfinished.collect()
}

/// A folder that can't be removed is tried again by the next run.
fn tidy(output_dir: &Path, run: &str) {
    for left in unfinished(output_dir).iter().filter(|left| left.is_abandoned()) {
        let path = left.path.display();
        if !left.has_checkpoint() {
            if fs::remove_dir_all(&left.path).is_ok() {
                tracing::info!("removed `{path}`, which a killed run left");
            }
        } else if left.run() == Some(run) {
            tracing::warn!(
                "`{path}` is a run that was stopped: the same command with `--resume` goes on from its last checkpoint; \
                 remove the folder to discard it"
            );
        }
    }
}

/// Writes one file whole or not at all: under a temporary name beside it, flushed, then renamed.
///
/// # Errors
/// [`HostError::Io`].
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> Result<(), HostError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder);
    let written = temporary.and_then(|mut file| {
        write(&mut file)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)
    });
    written.map(drop).map_err(HostError::io("write", path))
}

/// Makes a folder whole or not at all: filled under a temporary name beside it, flushed, then renamed.
///
/// # Errors
/// [`HostError::OutputExists`] where `path` is taken, [`HostError::Io`], and those of `fill`; nothing is left behind.
pub fn make_whole(path: &Path, fill: impl FnOnce(&Path) -> Result<(), HostError>) -> Result<(), HostError> {
    if path.symlink_metadata().is_ok() {
        return Err(HostError::OutputExists { path: path.to_owned() });
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(HostError::io("create", folder))?;
    let temporary = tempfile::Builder::new()
        .prefix(&format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy()))
        .permissions(Permissions::from_mode(0o777)) // less the umask
        .tempdir_in(folder)
        .map_err(HostError::io("create a folder in", folder))?;
    fill(temporary.path())?;
    flush(temporary.path()).map_err(HostError::io("flush", temporary.path()))?;
    fs::rename(temporary.path(), path).map_err(HostError::io("name", path))?;
    let _ = temporary.keep(); // under its new name
    flush_one(folder).map_err(HostError::io("flush", folder))
}

/// Files first, then the folder that lists them. Writers differ in who may read what they write: a file gets the
/// rights of its folder.
fn flush(dir: &Path) -> io::Result<()> {
    let mode = fs::metadata(dir)?.permissions().mode() & 0o666;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == CHECKPOINT_DIR {
            continue;
        } else if entry.file_type()?.is_dir() {
            flush(&entry.path())?;
        } else {
            fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
            flush_one(&entry.path())?;
        }
    }
    flush_one(dir)
}

fn flush_one(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> jiff::Timestamp {
        "2025-11-24T14:30:52Z".parse().unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_committed_run_is_whole_and_named_by_method_agent_and_time() {
        let root = tempfile::tempdir().unwrap();
        let output_dir = root.path().join("outputs/adapters");
        let run = RunDir::create(&output_dir, "sft_routing", start()).unwrap();
        run.write("README.md", "hello").unwrap();
        run.write_json("run.json", &serde_json::json!({ "b": 1, "a": 2 })).unwrap();
        let path = run.commit().unwrap();
        assert_eq!(path, output_dir.join("sft_routing_20251124_143052"));
        assert_eq!(names(&output_dir), ["sft_routing_20251124_143052"]);
        assert_eq!(fs::read_to_string(path.join("run.json")).unwrap(), "{\n  \"b\": 1,\n  \"a\": 2\n}\n");
    }

    #[test]
    fn every_file_of_a_run_has_the_rights_of_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path(), "sft_routing", start()).unwrap();
        run.write("adapter_model.safetensors", "x").unwrap();
        fs::set_permissions(run.path().join("adapter_model.safetensors"), Permissions::from_mode(0o600)).unwrap();
        let path = run.commit().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path.join("adapter_model.safetensors")), mode(&path) & 0o666);
    }

    #[test]
    fn a_file_that_is_written_whole_keeps_its_old_contents_on_failure() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("records.jsonl");
        write_whole(&path, |file| file.write_all(b"old")).unwrap();
        let error = write_whole(&path, |file| {
            file.write_all(b"new, but")?;
            Err(io::Error::other("disk full"))
        });
        assert_eq!(error.unwrap_err().describe(), format!("cannot write `{}`: disk full", path.display()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(root.path()), ["records.jsonl"]);
    }

    #[test]
    fn a_run_that_fails_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path(), "sft_routing", start()).unwrap();
        run.write("adapter_config.json", "{}").unwrap();
        assert_eq!(names(root.path()).len(), 1);
        assert!(names(root.path())[0].starts_with(".sft_routing_20251124_143052.unfinished-"));
        drop(run);
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_a_living_run_is_not() {
        let root = tempfile::tempdir().unwrap();
        let abandoned = root.path().join(".sft_routing_20251124_143052.unfinished-abc");
        fs::create_dir(&abandoned).unwrap();
        fs::write(abandoned.join("metrics.jsonl"), "x").unwrap();
        let living = RunDir::create(root.path(), "sft_routing", start()).unwrap();
        assert!(!abandoned.exists());
        let other = RunDir::create(root.path(), "sft_routing", start()).unwrap();
        assert!(living.path().exists() && other.path().exists());
    }

    /// What a run that was killed after its first checkpoint leaves, as `RunDir` itself would.
    fn stopped(root: &Path, name: &str) -> PathBuf {
        let path = root.join(format!(".{name}.unfinished-abc"));
        fs::create_dir_all(path.join("checkpoint")).unwrap();
        fs::write(path.join("checkpoint/state.safetensors"), "state").unwrap();
        path
    }

    #[test]
    fn a_stopped_run_with_a_checkpoint_stays_until_it_is_resumed_and_committed() {
        let root = tempfile::tempdir().unwrap();
        let left = stopped(root.path(), "sft_routing_20251124_143052");
        RunDir::create(root.path(), "sft_routing", start()).unwrap();
        assert!(left.exists(), "a new run removed it");

        drop(RunDir::resume(root.path(), "sft_routing").unwrap());
        assert!(left.exists(), "a resumed run that failed removed it");
        let resumed = RunDir::resume(root.path(), "sft_routing").unwrap();
        assert_eq!((resumed.path(), resumed.state_file().is_file()), (left.as_path(), true));
        resumed.write("README.md", "hello").unwrap();
        let path = resumed.commit().unwrap();
        assert_eq!(names(root.path()), ["sft_routing_20251124_143052"]);
        assert_eq!(names(&path), ["README.md"]);
    }

    #[test]
    fn a_run_that_is_discarded_leaves_no_checkpoint() {
        let root = tempfile::tempdir().unwrap();
        stopped(root.path(), "sft_routing_20251124_143052");
        RunDir::resume(root.path(), "sft_routing").unwrap().discard();
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn the_newest_stopped_run_of_the_same_agent_is_resumed() {
        let root = tempfile::tempdir().unwrap();
        stopped(root.path(), "sft_routing_20251124_143052");
        let newest = stopped(root.path(), "sft_routing_20251201_000000");
        stopped(root.path(), "sft_routing_v2_20251224_143052");
        stopped(root.path(), "dpo_routing_20251224_143052");
        assert_eq!(RunDir::resume(root.path(), "sft_routing").unwrap().path(), newest);
    }

    #[test]
    fn where_nothing_can_be_resumed_the_error_says_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        let error = || RunDir::resume(root.path(), "sft_routing").unwrap_err().to_string();
        let (start, end) = (
            format!("no run `sft_routing` can be resumed in `{}`: ", root.path().display()),
            "; start one without `--resume`",
        );
        assert_eq!(error(), format!("{start}no run was stopped there after its first checkpoint{end}"));
        let other = stopped(root.path(), "dpo_routing_20251124_143052");
        assert_eq!(error(), format!("{start}what is there is another run's, `{}`{end}", other.display()));
        let own = stopped(root.path(), "sft_routing_20251124_143052");
        let alive = RunDir::resume(root.path(), "sft_routing").unwrap();
        assert_eq!(error(), format!("{start}`{}` is being filled by a run that is still going on{end}", own.display()));
        drop(alive);
    }

    #[test]
    fn runs_of_the_same_second_never_collide() {
        let root = tempfile::tempdir().unwrap();
        let runs: Vec<_> = (0..3).map(|_| RunDir::create(root.path(), "sft_routing", start()).unwrap()).collect();
        for run in runs {
            run.write("x", "x").unwrap();
            run.commit().unwrap();
        }
        let name = "sft_routing_20251124_143052";
        assert_eq!(names(root.path()), [name.to_owned(), format!("{name}_2"), format!("{name}_3")]);
    }

    #[test]
    fn an_output_dir_that_is_a_file_is_a_clear_error() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("taken");
        fs::write(&file, "").unwrap();
        let error = RunDir::create(&file, "sft_routing", start()).unwrap_err();
        assert!(error.describe().starts_with(&format!("cannot create `{}`: ", file.display())), "{error}");
    }
}
