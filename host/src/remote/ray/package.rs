//! What a job's working directory there has: the program, and what starts it as several ranks. The bundle goes through the artefact
//! store, where it may be larger than the 100 MiB that a dashboard takes.

use std::fs::File;
use std::io::{self, BufReader, Write};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::job::{Bundle, PROGRAM};
use crate::plugins::hex;
use crate::remote::RemoteError;

/// Starts the ranks of a job.
const GANG: &str = include_str!("gang.py");
/// The name that it has there.
pub(super) const GANG_FILE: &str = "tunesmith_gang.py";
/// What it ends with where no such machines came in time (EX_UNAVAILABLE).
pub(super) const NO_PLACE: i32 = 69;
/// Ends a job that has not begun: an entrypoint of its own.
pub(super) const STOP: &str = include_str!("stop.py");

/// The name that Ray knows a package by: the same for all jobs of one program.
pub(super) fn name(bundle: &Bundle) -> String {
    let digest = Sha256::new().chain_update(&bundle.job.program_sha256).chain_update(GANG).finalize();
    format!("_ray_pkg_{}.zip", &hex(&digest)[..32])
}

/// Writes it. The same program gives the same bytes.
pub(super) fn write(bundle: &Bundle) -> Result<NamedTempFile, RemoteError> {
    let program = bundle.folder.join(PROGRAM);
    let file = NamedTempFile::new().map_err(RemoteError::io("create", &std::env::temp_dir()))?;
    let written = || -> io::Result<()> {
        let mut zip = ZipWriter::new(file.as_file());
        // Its modes are what Ray keeps of a file's.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(1))
            .last_modified_time(DateTime::default());
        zip.start_file(PROGRAM, options.unix_permissions(0o755))?;
        io::copy(&mut BufReader::new(File::open(&program)?), &mut zip)?;
        zip.start_file(GANG_FILE, options.unix_permissions(0o644))?;
        zip.write_all(GANG.as_bytes())?;
        zip.finish()?;
        Ok(())
    };
    written().map_err(RemoteError::io("pack", &program))?;
    Ok(file)
}
