//! The server: pages on which people review what was generated (`web/`), and where it is asked for the receiver: agents' spans over
//! OTLP/HTTP, and feedback on them, into the stores of tenants. Of the receiver:
//!
//! - What is acknowledged is on the disk: one thread owns a store, writes all that waits as one transaction, and then answers
//!   each request of it. Whatever cannot be written now is refused with a status that makes exporters send it again.
//! - The token of a request decides whose it is, and nothing else in it does.
//! - What a request takes of memory is counted from its first byte until it is stored, and is refused where there is no room.

mod access;
mod analysis;
mod annotations;
mod api;
mod approvals;
mod body;
mod connections;
mod counters;
mod disk;
mod error;
mod refusal;
mod room;
pub mod run_folders;
mod store_writer;
mod streams;
mod tls;
mod token;
mod traces;
mod web;
mod worker;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use axum::Router;
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

pub use access::TenantAccess;
pub use analysis::{Question, RunConfigOf};
pub use counters::Received;
pub use error::ServerError;
pub use token::{file_beside, read_or_make, review_file_beside, sha256 as token_sha256, write as write_token};
pub use worker::WorkerAccess;

use access::{Tenant, Tenants};
use counters::Counters;
use streams::Streams;
use web::Web;
use worker::Worker;

use crate::config::ServeConfig;
use crate::progress::Progress;

/// A server that is bound to its address, with its stores open.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    encryption: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
    worker: Option<Arc<Worker>>,
}

/// What requests share.
struct Shared {
    config: ServeConfig,
    tenants: Tenants,
    run_config: Box<RunConfigOf>,
    /// Becomes true where the server ends: an analysis that is under way ends after its batch then.
    stopping: &'static AtomicBool,
    counters: Arc<Counters>,
    /// Requests that are inflated and decoded at once: as many as there are processors, and so many at the most of the
    /// intermediate forms of a span in memory.
    decoding: Arc<Semaphore>,
    web: Web,
    streams: Streams,
}

impl Server {
    /// Binds the address and opens the tenants' stores, which are made where they are not there; `run_config` gives a
    /// tenant's configuration when its data is to be analyzed.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn bind(
        config: ServeConfig,
        tenants: Vec<TenantAccess>,
        run_config: Box<RunConfigOf>,
    ) -> Result<Self, ServerError> {
        access::check(&tenants)?;
        let encryption = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let listen = |source| ServerError::Listen { address: config.listen.clone(), source };
        let listener = TcpListener::bind(config.listen.as_str()).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let counters = Arc::new(Counters::default());
        let several = tenants.len() > 1;
        let mut writers = Vec::with_capacity(tenants.len());
        let mut open = Vec::with_capacity(tenants.len());
        for access in tenants {
            if access.token_sha256.is_none() {
                open.push(Tenant::new(access, None));
                continue;
            }
            match store_writer::start(&access, &config, &counters) {
                Ok((writer, thread)) => {
                    writers.push(thread);
                    open.push(Tenant::new(access, Some(writer)));
                }
                // One tenant's store is no reason to turn the others away.
                Err(error) if several => tracing::error!("tenant `{}` is not served: {error}", access.tenant_id),
                Err(error) => return Err(error),
            }
        }
        // A byte for each server of a process.
        let stopping = Box::leak(Box::default());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            tenants: Tenants::new(open),
            run_config,
            stopping,
            counters,
            decoding: Arc::new(Semaphore::new(threads)),
            web: Web::default(),
            streams: Streams::new(config.max_connections),
            config,
        };
        Ok(Self { listener, address, encryption, shared: Arc::new(shared), writers, worker: None })
    }

    /// Serves jobs of other hosts, too.
    ///
    /// # Errors
    /// [`ServerError::Jobs`].
    pub fn with_worker(self, access: WorkerAccess) -> Result<Self, ServerError> {
        Ok(Self { worker: Some(Worker::open(access)?), ..self })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is reached by `https`.
    pub fn is_encrypted(&self) -> bool {
        self.encryption.is_some()
    }

    /// Serves until `stop` is done; then takes in no more, answers what it has taken in, and closes the stores.
    ///
    /// # Errors
    /// [`ServerError::Runtime`].
    pub fn run(
        self,
        progress: &Progress,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Received, ServerError> {
        let Self { listener, encryption, shared, writers, worker, .. } = self;
        let (counters, stopping) = (Arc::clone(&shared.counters), shared.stopping);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServerError::Runtime)?;
        let stage = progress.stage("serve", 0);
        let served = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let limits = connections::Limits::of(&shared.config);
            let router = router(Arc::clone(&shared));
            let router = match &worker {
                Some(worker) => router.merge(worker::router(Arc::clone(worker))),
                None => router,
            };
            let stop = async {
                stop.await;
                // Or each would be waited for.
                shared.streams.close();
                if let Some(worker) = &worker {
                    worker.stop();
                }
            };
            let serving = connections::serve(listener, encryption, router, limits, stop);
            tokio::select! {
                () = serving => {}
                () = counters.tell(&stage) => {}
                () = approvals::expire(&shared.tenants) => {}
            }
            Ok(())
        });
        stopping.store(true, Ordering::Relaxed);
        // The last that could send a writer something is gone with the connections: what they have is their last.
        drop((runtime, shared));
        if let Some(worker) = worker {
            worker.join();
        }
        for writer in writers {
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        served.map_err(ServerError::Runtime)?;
        let received = counters.received();
        stage.finish(&received.to_string());
        Ok(received)
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let receiver = match shared.tenants.receive() {
        true => Router::new()
            .route("/v1/traces", post(traces::receive))
            .route("/v1/annotations", post(annotations::receive))
            .route("/v1/analysis", get(analysis::answer)),
        false => Router::new(),
    };
    receiver
        .route("/healthz", get(|| async { "ok\n" }))
        .nest(api::ROOT, api::router())
        .merge(web::routes())
        .fallback(web::no_such_path)
        .with_state(shared)
}
