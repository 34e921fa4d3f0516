//! `tunesmith serve`: receives telemetry until it is told to end.

use std::io::Write;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use super::Answer;
use crate::cli::ServeArgs;
use crate::config::{self, Options, ServeConfig};
use crate::error::HostError;
use crate::progress::Progress;
use crate::server::{self, Server, TenantAccess};

pub(super) fn run(args: ServeArgs, json: bool, progress: &Progress) -> Result<Answer, HostError> {
    let flags = Options { serve: args.serve, ..args.store.options() };
    let (options, _) = config::load(args.store.config.as_deref(), &flags)?;
    let config = ServeConfig::new(&options)?;
    let store = config::store_path(&options)?;
    let token_file = config.token_file.clone().unwrap_or_else(|| server::file_beside(&store));
    let token = server::read_or_make(&token_file, config.token_file.is_none())?;
    let tenant = TenantAccess {
        tenant_id: config::tenant_id(&options)?,
        token_sha256: server::token_sha256(&token),
        store: store.clone(),
        store_quota: config.store_quota,
    };
    let server = Server::bind(config, vec![tenant])?;
    announce(&server, &store, &token_file, json);
    let received = server.run(progress, stopped())?;
    Ok(Answer::new(format!("store: {}", store.display()), &received))
}

/// Says where to send to, while it is already heard there.
fn announce(server: &Server, store: &Path, token_file: &Path, json: bool) {
    let address = server.address();
    if !address.ip().is_loopback() {
        tracing::warn!("`{address}` is reached from other machines, and tokens come unencrypted: put TLS before it");
    }
    let endpoint = format!("http://{address}");
    let token_file = std::path::absolute(token_file).unwrap_or_else(|_| token_file.to_owned());
    let text = match json {
        true => serde_json::json!({
            "listening": address, "endpoint": endpoint, "store": store, "token_file": token_file
        })
        .to_string(),
        false => format!(
            "listening at {endpoint}, store: {}\n\nAgents send their spans here with\n  \
             export OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}\n  \
             export OTEL_EXPORTER_OTLP_HEADERS=\"Authorization=Bearer%20$(cat '{}')\"\n",
            store.display(),
            token_file.display()
        ),
    };
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush()); // whoever does not read it may not need it
}

/// Ctrl-C or `kill`. A second one ends the process at once: what was acknowledged is on the disk.
async fn stopped() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Then they end the process as they do any.
        return std::future::pending().await;
    };
    let mut either = async move || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    either().await;
    tokio::spawn(async move {
        either().await;
        std::process::exit(1);
    });
}
