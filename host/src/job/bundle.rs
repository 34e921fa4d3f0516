use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{FORMAT, JOB_FILE, Job, JobError, JobKey, PROGRAM};

/// What a job's machine is handed: a folder, and the digest of all that is in it.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The job's name.
    pub key: JobKey,
    /// SHA-256 over `job.json`, which names the digests of everything else; 64 hexadecimal digits.
    pub digest: String,
    /// `job.json`, read.
    pub job: Job,
    /// The folder, whole and never changed.
    pub folder: PathBuf,
    /// What is in it, by path.
    pub files: Vec<BundleFile>,
}

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFile {
    /// Its path within the folder, with `/` between its parts: `base/config.json`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Whether it is a program.
    pub executable: bool,
}

impl Bundle {
    /// Reads the bundle in `folder`, and believes its digests: [`Bundle::verify`] looks.
    ///
    /// # Errors
    /// [`JobError::Spec`], [`JobError::Io`].
    pub fn open(folder: &Path) -> Result<Self, JobError> {
        let path = folder.join(JOB_FILE);
        let text = fs::read(&path).map_err(JobError::io("read", &path))?;
        let job = parse(&path, &text)?;
        let mut files = vec![];
        let program = folder.join(PROGRAM);
        let paths = job.files.keys().map(String::as_str).chain([JOB_FILE]);
        for path in paths.chain(program.is_file().then_some(PROGRAM)) {
            let file = folder.join(path);
            let size = fs::metadata(&file).map_err(JobError::io("read", &file))?.len();
            files.push(BundleFile { path: path.to_owned(), size, executable: path == PROGRAM });
        }
        let digest = hex(&Sha256::digest(&text));
        Ok(Self { key: JobKey::new(&job.tenant_id, &digest), digest, job, folder: folder.to_owned(), files })
    }

    /// Compares every file with its digest.
    ///
    /// # Errors
    /// [`JobError::Damaged`], [`JobError::Io`].
    pub fn verify(&self) -> Result<(), JobError> {
        self.job.files.iter().try_for_each(|(path, want)| {
            let path = self.folder.join(path);
            match sha256_of(&path)? {
                is if is == *want => Ok(()),
                is => Err(JobError::Damaged { path, is, want: want.clone() }),
            }
        })
    }
}

/// Reads a `job.json`.
///
/// # Errors
/// [`JobError::Spec`].
pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Job, JobError> {
    let spec = |what: String| JobError::Spec { path: path.to_owned(), what };
    let job: Job = serde_json::from_slice(text).map_err(|error| spec(error.to_string()))?;
    if job.format != FORMAT {
        return Err(spec(format!("its format is {}, this version's {FORMAT}", job.format)));
    }
    let is_within =
        |path: &String| Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    match job.files.keys().find(|path| !is_within(path)) {
        Some(path) => Err(spec(format!("`{path}` leads out of the bundle"))),
        None => Ok(job),
    }
}

/// A bundle that is being made.
#[derive(Debug)]
pub struct BundleDraft {
    folder: TempDir,
    jobs: PathBuf,
    files: Vec<(String, String)>,
}

impl BundleDraft {
    /// Begins one in `jobs`, the folder of all jobs, which is made where it is missing.
    ///
    /// # Errors
    /// [`JobError::Io`].
    pub fn new(jobs: &Path) -> Result<Self, JobError> {
        fs::create_dir_all(jobs).map_err(JobError::io("create", jobs))?;
        let folder = tempfile::Builder::new().prefix(".bundle-").tempdir_in(jobs);
        let folder = folder.map_err(JobError::io("create a folder in", jobs))?;
        Ok(Self { folder, jobs: jobs.to_owned(), files: Vec::new() })
    }

    /// Writes a file.
    ///
    /// # Errors
    /// [`JobError::Io`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), JobError> {
        let path = self.place(name)?;
        fs::write(&path, bytes).map_err(JobError::io("write", &path))?;
        self.files.push((name.to_owned(), hex(&Sha256::digest(bytes))));
        Ok(())
    }

    /// Takes in a file of the base: under a second name where the file system can, else as a copy.
    ///
    /// # Errors
    /// [`JobError::Io`].
    pub fn link(&mut self, name: &str, file: &Path) -> Result<(), JobError> {
        let path = self.place(name)?;
        // Of a link, what it leads to: hub caches are links.
        let file = file.canonicalize().map_err(JobError::io("read", file))?;
        if fs::hard_link(&file, &path).is_err() {
            fs::copy(&file, &path).map_err(JobError::io("copy", &file))?;
        }
        self.files.push((name.to_owned(), sha256_of(&path)?));
        Ok(())
    }

    /// Ends it with `job`, whose digests are filled in, and with `program`. It lies in `jobs/{key}/bundle` then; where that is there
    /// already, it is the same.
    ///
    /// # Errors
    /// [`JobError::Io`].
    pub fn finish(mut self, job: Job, program: &Path) -> Result<Bundle, JobError> {
        let own = self.folder.path().join(PROGRAM);
        fs::copy(program, &own).map_err(JobError::io("copy", program))?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).map_err(JobError::io("make executable", &own))?;
        self.files.sort();
        let job = Job { files: self.files.iter().cloned().collect(), program_sha256: sha256_of(&own)?, ..job };
        let text = serde_json::to_vec_pretty(&job).map_err(|error| JobError::io("write", &own)(error.into()))?;
        let path = self.folder.path().join(JOB_FILE);
        let mut file = File::create(&path).map_err(JobError::io("write", &path))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(JobError::io("write", &path))?;

        let digest = hex(&Sha256::digest(&text));
        let home = self.jobs.join(JobKey::new(&job.tenant_id, &digest).as_str());
        fs::create_dir_all(&home).map_err(JobError::io("create", &home))?;
        let folder = home.join("bundle");
        if !folder.join(JOB_FILE).is_file() {
            fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o755))
                .map_err(JobError::io("open", self.folder.path()))?;
            // Fails where another process was faster, with the same.
            match fs::rename(self.folder.path(), &folder) {
                Err(source) if !folder.join(JOB_FILE).is_file() => {
                    return Err(JobError::Io { action: "name", path: folder, source });
                }
                _ => {}
            }
        }
        Bundle::open(&folder)
    }

    fn place(&self, name: &str) -> Result<PathBuf, JobError> {
        let path = self.folder.path().join(name);
        let folder = path.parent().unwrap_or(self.folder.path());
        fs::create_dir_all(folder).map_err(JobError::io("create", folder))?;
        Ok(path)
    }
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// [`JobError::Io`].
pub fn sha256_of(path: &Path) -> Result<String, JobError> {
    let mut sha256 = Sha256::new();
    let mut file = File::open(path).map_err(JobError::io("read", path))?;
    let mut part = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut part).map_err(JobError::io("read", path))?;
        if n == 0 {
            break;
        }
        sha256.update(&part[..n]);
    }
    Ok(hex(&sha256.finalize()))
}

pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
