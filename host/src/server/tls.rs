//! TLS: the certificate and the key by which the server proves who it is.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::error::ServerError;
use crate::config::TlsFiles;

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";

/// What takes connections with the certificate and key of `files`, which are read once.
///
/// # Errors
/// [`ServerError::TlsFile`], [`ServerError::TlsPem`], [`ServerError::TlsMismatch`], [`ServerError::Tls`].
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ServerError> {
    let TlsFiles { cert, key } = files;
    let refused = |source| match source {
        rustls::Error::InconsistentKeys(_) => ServerError::TlsMismatch { cert: cert.clone(), key: key.clone() },
        source => ServerError::Tls { cert: cert.clone(), key: key.clone(), source },
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(certificates(cert)?, private_key(key)?)
        .map_err(refused)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let text = read(CERT, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(has_none(CERT, path, "certificate")),
        found => found.map_err(|error| is_no_pem(CERT, path, &error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ServerError> {
    PrivateKeyDer::from_pem_slice(&read(KEY, path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => has_none(KEY, path, "unencrypted private key"),
        error => is_no_pem(KEY, path, &error),
    })
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, ServerError> {
    std::fs::read(path).map_err(|source| ServerError::TlsFile { flag, path: path.to_owned(), source })
}

fn has_none(flag: &'static str, path: &Path, item: &str) -> ServerError {
    let what = format!("has no {item} in PEM: name the file that has");
    ServerError::TlsPem { flag, path: path.to_owned(), what }
}

fn is_no_pem(flag: &'static str, path: &Path, error: &pem::Error) -> ServerError {
    let what = format!("is not PEM ({error}): name the file as it was made");
    ServerError::TlsPem { flag, path: path.to_owned(), what }
}
