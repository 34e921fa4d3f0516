use std::path::PathBuf;

use crate::telemetry::TelemetryError;

/// Why a server can't start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each field is
pub enum ServerError {
    #[error(
        "cannot listen at `{address}` ({source}): stop what listens there, or name another address with `--listen`"
    )]
    Listen { address: String, source: std::io::Error },

    #[error("cannot use the token file `{path}` ({source}): name a readable one with `--token-file`")]
    TokenFile { path: PathBuf, source: std::io::Error },

    #[error(
        "the token in `{path}` is not 16 or more visible ASCII characters in one line: write a random one, such as of `openssl rand -hex 32`"
    )]
    ShortToken { path: PathBuf },

    #[error("cannot read `{path}` of `{flag}` ({source}): name a readable PEM file", path = path.display())]
    TlsFile { flag: &'static str, path: PathBuf, source: std::io::Error },

    #[error("`{path}` of `{flag}` {what}", path = path.display())]
    TlsPem { flag: &'static str, path: PathBuf, what: String },

    #[error(
        "the key in `{key}` is not that of the first certificate in `{cert}`: name the two that were made together",
        cert = cert.display(), key = key.display()
    )]
    TlsMismatch { cert: PathBuf, key: PathBuf },

    #[error(
        "the certificate in `{cert}` or its key in `{key}` can't be served ({source}): make them anew, such as by \
         `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes`",
        cert = cert.display(), key = key.display()
    )]
    Tls { cert: PathBuf, key: PathBuf, source: rustls::Error },

    /// What one tenant sends would be the other's.
    #[error("the tenants `{one}` and `{other}` have the same {shared}: give each its own")]
    Shared { shared: &'static str, one: String, other: String },

    #[error("cannot make the folder `{path}` of a telemetry store ({source}): name another store")]
    Folder { path: PathBuf, source: std::io::Error },

    #[error(transparent)]
    Telemetry(#[from] TelemetryError),

    #[error("cannot {what} the folder of jobs `{path}` ({source}): name another with `--jobs-dir`", path = path.display())]
    Jobs { what: &'static str, path: PathBuf, source: std::io::Error },

    #[error("cannot serve ({0}): check how many files and threads the process may have")]
    Runtime(std::io::Error),
}
