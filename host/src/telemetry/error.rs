use std::path::PathBuf;

/// Why telemetry could not be opened, read or imported.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each field is
pub enum TelemetryError {
    #[error("no telemetry store at `{path}`: fill one with `tunesmith import FILE`")]
    NotFound { path: PathBuf },

    #[error("`{path}` is not a telemetry store of tunesmith: name another file, or import into a new one")]
    NotAStore { path: PathBuf },

    #[error("`{path}` has schema {found}, and this tunesmith knows schemas up to {supported}: update tunesmith")]
    NewerSchema { path: PathBuf, found: i64, supported: i64 },

    #[error("the telemetry store `{path}` is damaged ({detail}): import the exports again into a new file")]
    Damaged { path: PathBuf, detail: String },

    #[error("no project `{project}` in `{path}`: {}", known_projects(.known))]
    UnknownProject { path: PathBuf, project: String, known: Vec<String> },

    #[error(
        "`{path}` has no span `{span_id}`, or several projects have it: check the id, or name the project with `--project`"
    )]
    UnknownSpan { path: PathBuf, span_id: String },

    /// The database refused: locked, full disk, no permission.
    #[error("the telemetry store `{path}` cannot be used ({cause}): check the disk, its permissions and other writers")]
    Database { path: PathBuf, cause: rusqlite::Error },

    /// The next write would make the file larger than it may be; or the disk is full, which SQLite tells alike.
    #[error(
        "the telemetry store `{path}` is full: its quota is {}; remove old spans with `tunesmith prune`, or have `store_quota` raised",
        crate::memory::human(*.quota)
    )]
    Quota { path: PathBuf, quota: u64 },

    #[error("cannot read `{path}` ({source}): name a readable file")]
    Unreadable { path: PathBuf, source: std::io::Error },

    /// Not one span or annotation came out of the file.
    #[error(
        "nothing in `{path}` is a span or an annotation ({reason}): expected JSON lines with one span each, \
         or an OTLP-JSON export"
    )]
    NothingImported { path: PathBuf, reason: String },
}

fn known_projects(known: &[String]) -> String {
    match known {
        [] => "it holds none yet, fill it with `tunesmith import FILE`".to_owned(),
        names => format!("it holds `{}`", names.join("`, `")),
    }
}
