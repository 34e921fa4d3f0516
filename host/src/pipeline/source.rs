//! Where a run's spans come from: a project of the embedded store, after the imports that the configuration names.

use std::path::{Path, PathBuf};

use crate::config::{PhoenixConfig, RunConfig};
use crate::error::HostError;
use crate::phoenix::{self, Phoenix, Range, Server, SyncProgress, SyncReport};
use crate::progress::Progress;
use crate::telemetry::{self, ImportReport, TelemetryError, TelemetryStore};

/// An open store, and the project in it.
pub struct Source {
    /// The store.
    pub store: TelemetryStore,
    /// The project's name.
    pub project: String,
}

/// Runs the imports of the configuration, reads its server, and opens its project.
///
/// # Errors
/// [`HostError::Telemetry`], [`HostError::Phoenix`] and, where no project is named, [`HostError::WhichProject`].
pub fn open_source(config: &RunConfig, progress: &Progress) -> Result<Source, HostError> {
    let path = &config.telemetry.store;
    let files = config.telemetry.imports.as_slice();
    let server = config.telemetry.phoenix.as_ref();
    let mut store = match (files, server) {
        ([], None) => TelemetryStore::open(path)?,
        _ => open_or_create(path, files)?,
    }
    .with_quota(config.granted.store_quota)?;
    for file in files {
        import_file(&mut store, file, config.project.as_deref(), progress)?;
    }
    if let Some(server) = server {
        sync_phoenix(&mut store, server, &Range::default(), progress)?;
    }
    let project = match &config.project {
        Some(project) => project.clone(),
        None => {
            let mut known: Vec<_> = store.projects()?.into_iter().map(|project| project.name).collect();
            match (known.pop(), known.is_empty()) {
                (Some(only), true) => only,
                (last, _) => {
                    known.extend(last);
                    return Err(HostError::WhichProject { store: path.clone(), known });
                }
            }
        }
    };
    Ok(Source { store, project })
}

/// Opens the store at `path` for the import of `files`, with the folders above it; where one of them can't be read,
/// no store is made.
///
/// # Errors
/// [`HostError::Io`] and [`HostError::Telemetry`].
pub fn open_or_create(path: &Path, files: &[PathBuf]) -> Result<TelemetryStore, HostError> {
    for file in files {
        let unreadable = |source| TelemetryError::Unreadable { path: file.clone(), source };
        std::fs::File::open(file).map_err(unreadable)?;
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(HostError::io("create", folder))?;
    }
    Ok(TelemetryStore::open_or_create(path)?)
}

/// Imports one export; lines that hold no span are warned of with file and line, and counted.
///
/// # Errors
/// [`HostError::Telemetry`].
pub fn import_file(
    store: &mut TelemetryStore,
    file: &Path,
    project: Option<&str>,
    progress: &Progress,
) -> Result<ImportReport, HostError> {
    let stage = progress.stage("import", std::fs::metadata(file).map_or(0, |metadata| metadata.len()));
    let report = telemetry::import(store, file, project, |at| stage.at(at.bytes_done, ""))?;
    for rejected in &report.first_rejected {
        tracing::warn!("{}:{}: {}", file.display(), rejected.line, rejected.reason);
    }
    let untold = report.rejected - report.first_rejected.len() as u64;
    if untold > 0 {
        tracing::warn!("{}: {untold} more lines or parts of lines were not imported", file.display());
    }
    let (spans, annotations) = (report.spans, report.annotations);
    stage.finish(&format!(
        "{} spans ({} new), {} annotations ({} new), {} rejected from {}",
        spans.total(),
        spans.new,
        annotations.total(),
        annotations.new,
        report.rejected,
        file.display()
    ));
    Ok(report)
}

/// Reads what is new of a Phoenix project into the store.
///
/// # Errors
/// [`HostError::Phoenix`].
pub fn sync_phoenix(
    store: &mut TelemetryStore,
    config: &PhoenixConfig,
    range: &Range,
    progress: &Progress,
) -> Result<SyncReport, HostError> {
    let phoenix = Phoenix::new(Server::new(&config.url, config.api_key_file.as_deref(), config.key_of_environment)?)?;
    let stage = progress.stage("sync", 0);
    let report = phoenix::sync(&phoenix, store, &config.project, range, &mut |at| match at {
        SyncProgress::Spans(n) => stage.at(n, "spans"),
        SyncProgress::Annotations(n) => stage.at(n, "spans, their annotations"),
    })?;
    for reason in &report.first_rejected {
        tracing::warn!("{}: {reason}", phoenix.url());
    }
    let untold = report.rejected - report.first_rejected.len() as u64;
    if untold > 0 {
        tracing::warn!("{}: {untold} more were not read", phoenix.url());
    }
    let SyncReport { spans, annotations, .. } = &report;
    let told = format!(
        "{} spans ({} new), {} annotations ({} new, {} updated, {} removed), {} rejected from `{}` of {}",
        spans.total(),
        spans.new,
        annotations.total(),
        annotations.new,
        annotations.updated,
        report.removed,
        report.rejected,
        config.project,
        phoenix.url()
    );
    match report.unchanged {
        true => stage.finish(&format!("nothing new in `{}` of {}", config.project, phoenix.url())),
        false => stage.finish(&told),
    };
    Ok(report)
}
