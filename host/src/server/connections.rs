//! Connections: how many, for how long, and how they end.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::ServeConfig;

/// What is read ahead of a request's head and body; 256 connections of it are 16 MiB.
const BUFFER: usize = 64 << 10;
/// After a failure to accept, such as too many open files: ends by itself when a connection does.
const PAUSE: Duration = Duration::from_millis(100);

/// Who sends a request, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) tls: bool,
}

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    connections: usize,
    /// For a head, from when its connection opened or answered the request before; and for the last requests at the end.
    timeout: Duration,
}

impl Limits {
    pub(super) fn of(config: &ServeConfig) -> Self {
        Self { connections: config.max_connections, timeout: config.request_timeout }
    }
}

/// Serves until `stop`, then ends each connection after the request that it is at.
pub(super) async fn serve(
    listener: TcpListener,
    encryption: Option<TlsAcceptor>,
    router: Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.timeout).max_buf_size(BUFFER);
    tokio::pin!(stop);
    loop {
        let accepted = async {
            // Who finds no place waits in the system's queue.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            (place, accepted) = accepted => match accepted {
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true); // a matter of 40 ms, not of being right
                    let routes = TowerToHyperService::new(router.clone());
                    let peer = Peer { address: address.ip(), tls: encryption.is_some() };
                    let service = service_fn(move |mut request: Request<Incoming>| {
                        request.extensions_mut().insert(peer);
                        routes.call(request)
                    });
                    let (builder, watcher, encryption) = (builder.clone(), graceful.watcher(), encryption.clone());
                    connections.spawn(async move {
                        match encryption {
                            None => end(watcher.watch(builder.serve_connection(TokioIo::new(stream), service))).await,
                            Some(encryption) => match encrypted(stream, &encryption, limits.timeout).await {
                                Ok(stream) => {
                                    end(watcher.watch(builder.serve_connection(TokioIo::new(stream), service))).await;
                                }
                                Err(error) => tracing::debug!("a connection ended in its handshake: {error}"),
                            },
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("no connection can be taken: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = &mut stop => break,
        }
    }
    drop(listener);
    if tokio::time::timeout(limits.timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("{} connections did not end within {} s", connections.len(), limits.timeout.as_secs());
    }
    connections.shutdown().await;
}

async fn end(connection: impl Future<Output = hyper::Result<()>>) {
    if let Err(error) = connection.await {
        tracing::debug!("a connection ended: {error}");
    }
}

/// The handshake has the time of a request's head.
async fn encrypted(stream: TcpStream, encryption: &TlsAcceptor, within: Duration) -> io::Result<TlsStream<TcpStream>> {
    let handshake = tokio::time::timeout(within, encryption.accept(stream));
    handshake.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
