//! The only writer of run outputs. A run's folder is whole or absent: it is filled under a temporary name in the
//! folder of all runs, flushed to disk, and renamed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::HostError;

/// A run's folder that is being filled; gone with everything in it, unless [`RunDir::commit`] is called.
#[derive(Debug)]
pub struct RunDir {
    temporary: tempfile::TempDir,
    output_dir: PathBuf,
    name: String,
}

impl RunDir {
    /// Starts a folder that will be called `{method}_{agent}_{YYYYMMDD_HHMMSS}` (UTC) in `output_dir`, which is
    /// created where it is missing.
    ///
    /// # Errors
    /// [`HostError::Io`] where `output_dir` can't be written.
    pub fn create(output_dir: &Path, method: &str, agent: &str, start: jiff::Timestamp) -> Result<Self, HostError> {
        let name = format!("{method}_{agent}_{}", start.strftime("%Y%m%d_%H%M%S"));
        fs::create_dir_all(output_dir).map_err(HostError::io("create", output_dir))?;
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".{name}.unfinished-"))
            .tempdir_in(output_dir)
            .map_err(HostError::io("create a folder in", output_dir))?;
        Ok(Self { temporary, output_dir: output_dir.to_owned(), name })
    }

    /// Where to write until the commit.
    pub fn path(&self) -> &Path {
        self.temporary.path()
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

    /// Flushes everything to disk and gives the folder its name, with a suffix `_2`, `_3`, ... where that is taken.
    ///
    /// # Errors
    /// [`HostError::Io`]; nothing is left behind then.
    pub fn commit(self) -> Result<PathBuf, HostError> {
        flush(self.path()).map_err(HostError::io("flush", self.path()))?;
        // The temporary name was readable by us only; an adapter is for whoever serves it.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.path(), mode).map_err(HostError::io("open up", self.path()))?;
        for n in 1u32.. {
            let name = if n == 1 { self.name.clone() } else { format!("{}_{n}", self.name) };
            let path = self.output_dir.join(name);
            if path.symlink_metadata().is_ok() {
                continue;
            }
            match fs::rename(self.path(), &path) {
                Ok(()) => {
                    // The folder has another name now: there is nothing left to remove under the old one.
                    let _ = self.temporary.keep();
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

/// Writes one file whole or not at all: under a temporary name beside it, flushed, then renamed.
///
/// # Errors
/// [`HostError::Io`].
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> Result<(), HostError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
        write(&mut file)?;
        file.as_file().sync_all()?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode)?;
        file.persist(path).map_err(|error| error.error)
    });
    written.map(drop).map_err(HostError::io("write", path))
}

/// Files first, then the folder that lists them.
fn flush(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { flush(&entry.path())? } else { flush_one(&entry.path())? }
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
        let run = RunDir::create(&output_dir, "sft", "routing", start()).unwrap();
        run.write("README.md", "hello").unwrap();
        run.write_json("run.json", &serde_json::json!({ "b": 1, "a": 2 })).unwrap();
        let path = run.commit().unwrap();
        assert_eq!(path, output_dir.join("sft_routing_20251124_143052"));
        assert_eq!(names(&output_dir), ["sft_routing_20251124_143052"]);
        assert_eq!(fs::read_to_string(path.join("run.json")).unwrap(), "{\n  \"b\": 1,\n  \"a\": 2\n}\n");
    }

    #[test]
    fn a_run_that_fails_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path(), "sft", "routing", start()).unwrap();
        run.write("adapter_config.json", "{}").unwrap();
        assert_eq!(names(root.path()).len(), 1);
        assert!(names(root.path())[0].starts_with(".sft_routing_20251124_143052.unfinished-"));
        drop(run);
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn runs_of_the_same_second_never_collide() {
        let root = tempfile::tempdir().unwrap();
        let runs: Vec<_> = (0..3).map(|_| RunDir::create(root.path(), "sft", "routing", start()).unwrap()).collect();
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
        let error = RunDir::create(&file, "sft", "routing", start()).unwrap_err();
        assert!(error.describe().starts_with(&format!("cannot create `{}`: ", file.display())), "{error}");
    }
}
