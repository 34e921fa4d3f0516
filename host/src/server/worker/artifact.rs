//! What a job left, as one file.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::Path;
use std::pin::Pin;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, unfold};

use super::Worker;
use super::folder::Name;
use super::intake::disk;
use crate::job::{ADAPTER_DIR, METRICS_FILE, RESULT_FILE};
use crate::remote::worker::contract::{ARTIFACT_DIGEST, Stage, kind};
use crate::remote::worker::pack;
use crate::server::api::Problem;

/// Bytes in memory of a file that is sent.
const PIECE: usize = 256 << 10;

/// An archive, and what is told of it.
pub(super) struct Artifact {
    file: File,
    length: u64,
    digest: String,
}

impl Worker {
    /// Packs what a job that succeeded has left.
    pub(super) fn artifact(&self, name: &Name) -> Result<Option<Artifact>, Problem> {
        let folder = self.folder(&name.key);
        let Some(record) = folder.record(name.attempt).map_err(disk)? else { return Ok(None) };
        let missing = |what: &str| Problem::new(StatusCode::NOT_FOUND, kind::NO_ARTIFACT, "No artefact", what);
        if record.state != Stage::Succeeded {
            return Err(missing(RESULT_FILE));
        }
        let out = folder.out();
        let files = files(&out).map_err(|(path, error)| match error.kind() {
            io::ErrorKind::NotFound => missing(&path),
            _ => disk(error),
        })?;
        self.packed(&out, &files).map(Some).map_err(disk)
    }

    fn packed(&self, out: &Path, files: &[(String, u64)]) -> io::Result<Artifact> {
        let mut file = pack::pack(out, files, tempfile::tempfile_in(self.incoming())?)?;
        let (digest, length) = pack::sha256(&mut file)?;
        file.rewind()?;
        Ok(Artifact { file, length, digest })
    }
}

/// The result last, as it was written.
fn files(out: &Path) -> Result<Vec<(String, u64)>, (String, io::Error)> {
    let failed = |path: &str| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(out.join(ADAPTER_DIR)).map_err(failed(ADAPTER_DIR))? {
        let entry = entry.map_err(failed(ADAPTER_DIR))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(format!("{ADAPTER_DIR}/{name}"));
        }
    }
    names.sort();
    names.extend([METRICS_FILE.to_owned(), RESULT_FILE.to_owned()]);
    let size = |path: String| match fs::metadata(out.join(&path)) {
        Ok(metadata) => Ok((path, metadata.len())),
        Err(error) => Err((path, error)),
    };
    names.into_iter().map(size).collect()
}

impl IntoResponse for Artifact {
    fn into_response(self) -> Response {
        let headers = [
            (CONTENT_TYPE.as_str(), "application/gzip".to_owned()),
            (CONTENT_LENGTH.as_str(), self.length.to_string()),
            (ARTIFACT_DIGEST, self.digest),
        ];
        (headers, Body::from_stream(pieces(self.file))).into_response()
    }
}

/// The file in pieces, each read where waiting for a disk is no matter.
fn pieces(file: File) -> Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>> {
    Box::pin(unfold(file, async |mut file| {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE];
            let read = file.read(&mut piece).map(|n| {
                piece.truncate(n);
                piece
            });
            (read, file)
        });
        match read.await {
            Ok((Ok(piece), _)) if piece.is_empty() => None,
            Ok((read, file)) => Some((read.map(Bytes::from), file)),
            Err(_) => None, // cut short: its length tells the client
        }
    }))
}
