//! `[serve]`: what receives telemetry, and how much of it.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Options, size};

/// `[serve]`, and the flags of `serve`.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Serving")]
pub struct ServeOptions {
    /// Address and port to listen at; port 0 takes a free one [default: 127.0.0.1:4318]
    #[arg(long, env = "TUNESMITH_LISTEN", value_name = "ADDR")]
    pub listen: Option<String>,
    /// File with the token that clients send [default: `serve.token` beside the store, made where it is not there]
    #[arg(long, env = "TUNESMITH_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Most that the store may take of the disk, with its log: `2GiB`. Then nothing more is taken in [default: no limit]
    #[arg(long, env = "TUNESMITH_STORE_QUOTA", value_name = "SIZE")]
    pub store_quota: Option<String>,
    /// Folder of the jobs that `--worker` trains for other hosts [default: `jobs` beside the store]
    #[arg(long, env = "TUNESMITH_JOBS_DIR", value_name = "DIR")]
    pub jobs_dir: Option<PathBuf>,
    /// File with the token of the hosts that send jobs [default: `worker.token` in the folder of jobs, made where it is not there]
    #[arg(long, env = "TUNESMITH_WORKER_TOKEN_FILE", value_name = "FILE")]
    pub worker_token_file: Option<PathBuf>,
    /// Most that a job may bring, unpacked, its base model included [default: 32GiB]
    #[arg(long, env = "TUNESMITH_MAX_BUNDLE", value_name = "SIZE")]
    pub max_bundle: Option<String>,
    /// Longest request, compressed and not [default: 32MiB]
    #[arg(long, env = "TUNESMITH_MAX_BODY", value_name = "SIZE")]
    pub max_body: Option<String>,
    /// Longest span; a longer one is rejected, and the others of its request are stored [default: 4MiB]
    #[arg(long, env = "TUNESMITH_MAX_SPAN", value_name = "SIZE")]
    pub max_span: Option<String>,
    /// Memory for requests that are read or wait to be stored; at least four times `max_body` [default: 128MiB]
    #[arg(long, env = "TUNESMITH_QUEUE_MEMORY", value_name = "SIZE")]
    pub queue_memory: Option<String>,
    /// Most connections at once; more wait [default: 256]
    #[arg(long, env = "TUNESMITH_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<NonZeroU32>,
    /// Longest time for a request to arrive, and then to be stored [default: 30]
    #[arg(long, env = "TUNESMITH_REQUEST_TIMEOUT_S", value_name = "S")]
    pub request_timeout_s: Option<NonZeroU32>,
    /// Certificates in PEM, the server's own first: it is reached by `https` then, and by nothing else
    #[arg(long, env = "TUNESMITH_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The key of the first certificate, in PEM
    #[arg(long, env = "TUNESMITH_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
}

/// What the server may take; every default filled in, every value checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeConfig {
    /// Where it listens.
    pub listen: String,
    /// Where the token of a single user is; none means beside the store.
    pub token_file: Option<PathBuf>,
    /// Bytes that a single user's store may take.
    pub store_quota: Option<u64>,
    /// Where jobs of other hosts are kept; none means beside the store.
    pub jobs_dir: Option<PathBuf>,
    /// Where the token of those hosts is; none means in that folder.
    pub worker_token_file: Option<PathBuf>,
    /// Bytes that a job may bring.
    pub max_bundle: u64,
    /// Bytes of a request, compressed and not.
    pub max_body: usize,
    /// Bytes of a span.
    pub max_span: usize,
    /// Bytes of requests in memory, for each tenant.
    pub queue_memory: usize,
    /// Connections at once.
    pub max_connections: usize,
    /// For a request's head, for its body, and for storing it.
    pub request_timeout: Duration,
    /// By what the server proves who it is; none means that connections are not encrypted.
    pub tls: Option<TlsFiles>,
}

/// A certificate and its key, each a PEM file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, then those that vouch for it.
    pub cert: PathBuf,
    /// The key of the first.
    pub key: PathBuf,
}

impl ServeConfig {
    /// Fills in the defaults and checks the values.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn new(options: &Options) -> Result<Self, ConfigError> {
        let own = &options.serve;
        let max_body = bytes("serve.max_body", own.max_body.as_deref())?.unwrap_or(32 << 20);
        let max_span = bytes("serve.max_span", own.max_span.as_deref())?.unwrap_or(4 << 20);
        let queue_memory = bytes("serve.queue_memory", own.queue_memory.as_deref())?.unwrap_or(128 << 20);
        // Compressed, inflated, and twice as rows: a request that never finds room would be sent for ever.
        let least = max_body.saturating_mul(4);
        if queue_memory < least {
            let want = format!(
                "give at least {} bytes, four times `serve.max_body`, or lower that: a request is in memory as it came, \
                 inflated, and as rows",
                least
            );
            return Err(ConfigError::Invalid { key: "serve.queue_memory", value: queue_memory.to_string(), want });
        }
        Ok(Self {
            listen: own.listen.clone().unwrap_or_else(|| "127.0.0.1:4318".to_owned()),
            token_file: own.token_file.clone(),
            store_quota: bytes("serve.store_quota", own.store_quota.as_deref())?,
            jobs_dir: own.jobs_dir.clone(),
            worker_token_file: own.worker_token_file.clone(),
            max_bundle: bytes("serve.max_bundle", own.max_bundle.as_deref())?.unwrap_or(32 << 30),
            max_body: in_memory(max_body),
            max_span: in_memory(max_span),
            queue_memory: in_memory(queue_memory),
            max_connections: own.max_connections.map_or(256, |n| n.get() as usize),
            request_timeout: Duration::from_secs(own.request_timeout_s.map_or(30, |s| s.get().into())),
            tls: tls(own)?,
        })
    }
}

fn tls(own: &ServeOptions) -> Result<Option<TlsFiles>, ConfigError> {
    let missing = |key, remedy: &str| Err(ConfigError::Missing { key, remedy: remedy.to_owned() });
    match (own.tls_cert.clone(), own.tls_key.clone()) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key })),
        (Some(_), None) => missing("serve.tls_key", "name the file with the certificate's key with `--tls-key`"),
        (None, Some(_)) => missing("serve.tls_cert", "name the file with the key's certificate with `--tls-cert`"),
    }
}

fn bytes(key: &'static str, text: Option<&str>) -> Result<Option<u64>, ConfigError> {
    let parsed = |text: &str| {
        size::parse(text).ok_or_else(|| ConfigError::Invalid {
            key,
            value: format!("{text:?}"),
            want: "give a size such as `8GiB` or `512MiB`".to_owned(),
        })
    };
    text.map(parsed).transpose()
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(options: ServeOptions) -> Result<ServeConfig, String> {
        let options = Options { serve: options, ..Options::default() };
        ServeConfig::new(&options).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let config = config(ServeOptions::default()).unwrap();
        assert_eq!(
            config,
            ServeConfig {
                listen: "127.0.0.1:4318".to_owned(),
                token_file: None,
                store_quota: None,
                jobs_dir: None,
                worker_token_file: None,
                max_bundle: 32 << 30,
                max_body: 32 << 20,
                max_span: 4 << 20,
                queue_memory: 128 << 20,
                max_connections: 256,
                request_timeout: Duration::from_secs(30),
                tls: None,
            }
        );
    }

    #[test]
    fn a_certificate_goes_with_a_key() {
        let with = |tls_cert: Option<&str>, tls_key: Option<&str>| {
            let (tls_cert, tls_key) = (tls_cert.map(PathBuf::from), tls_key.map(PathBuf::from));
            config(ServeOptions { tls_cert, tls_key, ..ServeOptions::default() }).map(|config| config.tls)
        };
        let (cert, key) = ("cert.pem".into(), "key.pem".into());
        assert_eq!(with(Some("cert.pem"), Some("key.pem")), Ok(Some(TlsFiles { cert, key })));
        assert_eq!(
            with(Some("cert.pem"), None),
            Err("`serve.tls_key` is not set: name the file with the certificate's key with `--tls-key`".to_owned())
        );
        assert_eq!(
            with(None, Some("key.pem")),
            Err("`serve.tls_cert` is not set: name the file with the key's certificate with `--tls-cert`".to_owned())
        );
    }

    #[test]
    fn sizes_that_are_none_or_leave_no_room_for_a_request_are_refused() {
        let with_quota = ServeOptions { store_quota: Some("much".to_owned()), ..ServeOptions::default() };
        assert_eq!(
            config(with_quota),
            Err("`serve.store_quota` is \"much\": give a size such as `8GiB` or `512MiB`".to_owned())
        );
        let with_queue = ServeOptions { queue_memory: Some("64MiB".to_owned()), ..ServeOptions::default() };
        assert_eq!(
            config(with_queue),
            Err("`serve.queue_memory` is 67108864: give at least 134217728 bytes, four times `serve.max_body`, or lower \
                 that: a request is in memory as it came, inflated, and as rows"
                .to_owned())
        );
    }
}
