//! `tunesmith serve`: receives telemetry until it is told to end.

use std::io::Write;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use super::Answer;
use crate::cli::{ScopeArgs, ServeArgs};
use crate::config::{self, ConfigError, Options, ReviewConfig, RunConfig, ServeConfig};
use crate::error::HostError;
use crate::progress::Progress;
use crate::server::{self, Question, RunConfigOf, Server, TenantAccess};
use crate::tenants::{Operator, Scope};

/// A tenant, and where its clients find their token.
struct Served {
    access: TenantAccess,
    token_file: PathBuf,
}

pub(super) fn run(scope: &ScopeArgs, args: ServeArgs, json: bool, progress: &Progress) -> Result<Answer, HostError> {
    let (config, served, run_config) = match &scope.operator {
        None => of_user(scope.tenant_id.clone(), args)?,
        Some(file) => of_operator(Operator::open(file)?, scope.tenant_id.as_deref(), args)?,
    };
    let server = Server::bind(config, served.iter().map(|served| served.access.clone()).collect(), run_config)?;
    announce(&server, &served, json);
    let received = server.run(progress, stopped())?;
    let stores: Vec<_> = served.iter().map(|served| format!("store: {}", served.access.store.display())).collect();
    Ok(Answer::new(stores.join("\n"), &received))
}

/// How to serve, whom, and by which configuration what they sent is analyzed.
type Serving = (ServeConfig, Vec<Served>, Box<RunConfigOf>);

/// The one tenant that the user of a machine is.
fn of_user(tenant_id: Option<String>, args: ServeArgs) -> Result<Serving, HostError> {
    let scope = Scope::User { tenant_id };
    let flags = Options { serve: args.serve, ..args.store.options() };
    let (options, _) = scope.load(args.store.config.as_deref(), &flags)?;
    let config = ServeConfig::new(&options)?;
    let store = config::store_path(&options)?;
    let token_file = config.token_file.clone().unwrap_or_else(|| server::file_beside(&store));
    let token = server::read_or_make(&token_file, config.token_file.is_none())?;
    let review = ReviewConfig::new(&options)?;
    let access = TenantAccess {
        tenant_id: config::tenant_id(&options)?,
        token_sha256: server::token_sha256(&token),
        store,
        store_quota: config.store_quota,
        output_dir: config::output_dir(&options),
        approvals: review.approvals,
        people: review.people,
    };
    let run_config = move |_: &str, question: &Question| {
        let (options, _) = scope.load(args.store.config.as_deref(), &asked(question, args.store.options()))?;
        Ok(RunConfig::new(options)?)
    };
    Ok((config, vec![Served { access, token_file }], Box::new(run_config)))
}

/// All tenants of the operator's file, or the one that is named. What is wrong with one is told, and the others are served.
fn of_operator(operator: Operator, tenant_id: Option<&str>, args: ServeArgs) -> Result<Serving, HostError> {
    let own_of_each = [
        ("config", args.store.config.is_some()),
        ("store", args.store.store.is_some()),
        ("token_file", args.serve.token_file.is_some()),
        ("store_quota", args.serve.store_quota.is_some()),
    ];
    if let Some((key, _)) = own_of_each.into_iter().find(|(_, given)| *given) {
        let want = "each tenant has its own: leave it out, or set it in the operator's file".to_owned();
        return Err(ConfigError::Invalid { key, value: "given".to_owned(), want }.into());
    }
    let tls = [("tls_cert", args.serve.tls_cert.is_some()), ("tls_key", args.serve.tls_key.is_some())];
    if let Some((key, _)) = tls.into_iter().find(|(_, given)| *given) {
        let want =
            "all tenants are reached by one: leave it out, and set it in `[serve]` of the operator's file".to_owned();
        return Err(ConfigError::Invalid { key, value: "given".to_owned(), want }.into());
    }
    let config = ServeConfig::new(&Options { serve: operator.serving(&args.serve)?, ..Options::default() })?;
    let ids: Vec<_> = tenant_id.map_or_else(|| operator.names().collect(), |id| vec![id]);
    let (mut served, mut failed) = (Vec::new(), None);
    for id in ids {
        match of_tenant(&operator, id) {
            Ok(tenant) => served.push(tenant),
            Err(error) => {
                tracing::error!("tenant `{id}` is not served: {}", error.describe());
                failed = Some(error);
            }
        }
    }
    if let Some(error) = failed.filter(|_| served.is_empty()) {
        return Err(error);
    }
    let run_config = move |id: &str, question: &Question| {
        let scope = Scope::Tenant(Box::new(operator.tenant(id)?));
        let (options, _) = scope.load(None, &asked(question, Options::default()))?;
        Ok(RunConfig::new(options)?)
    };
    Ok((config, served, Box::new(run_config)))
}

fn asked(question: &Question, options: Options) -> Options {
    let Question { agent_type, project } = question.clone();
    Options { agent_type, project, ..options }
}

fn of_tenant(operator: &Operator, id: &str) -> Result<Served, HostError> {
    let tenant = operator.tenant(id)?;
    let (given, folder, store_quota) = (tenant.token_file.clone(), tenant.folder.clone(), tenant.granted.store_quota);
    let scope = Scope::Tenant(Box::new(tenant));
    let (options, _) = scope.load(None, &Options::default())?;
    let token_file = given.clone().unwrap_or_else(|| server::file_beside(&folder.join("store")));
    if given.is_none() {
        scope.check_write("serve.token", &token_file)?;
    }
    let token = server::read_or_make(&token_file, given.is_none())?;
    let token_sha256 = server::token_sha256(&token);
    let review = ReviewConfig::new(&options)?;
    let access = TenantAccess {
        tenant_id: id.to_owned(),
        token_sha256,
        store: config::store_path(&options)?,
        store_quota,
        output_dir: config::output_dir(&options),
        approvals: review.approvals,
        people: review.people,
    };
    Ok(Served { access, token_file })
}

/// Says where to send to, while it is already heard there.
fn announce(server: &Server, served: &[Served], json: bool) {
    let address = server.address();
    if !address.ip().is_loopback() && !server.is_encrypted() {
        tracing::warn!(
            "`{address}` is reached from other machines, and tokens come unencrypted: name a certificate with \
             `--tls-cert` and `--tls-key`, or put TLS before it"
        );
    }
    let endpoint = format!("{}://{address}", if server.is_encrypted() { "https" } else { "http" });
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let text = match (json, served) {
        (true, _) => {
            let tenant = |Served { access, token_file }: &Served| {
                let (id, token_file) = (&access.tenant_id, absolute(token_file));
                serde_json::json!({ "tenant_id": id, "store": access.store, "token_file": token_file })
            };
            let tenants: Vec<_> = served.iter().map(tenant).collect();
            serde_json::json!({ "listening": address, "endpoint": endpoint, "tenants": tenants }).to_string()
        }
        (false, [Served { access, token_file }]) => format!(
            "listening at {endpoint}, store: {}\n\n{}",
            access.store.display(),
            how_to_send(&endpoint, &absolute(token_file).display().to_string())
        ),
        (false, _) => {
            let tenant = |Served { access, token_file }: &Served| {
                format!(
                    "{}: store {}, token {}\n",
                    access.tenant_id,
                    access.store.display(),
                    absolute(token_file).display()
                )
            };
            let tenants: String = served.iter().map(tenant).collect();
            format!("listening at {endpoint}, tenants:\n{tenants}\n{}", how_to_send(&endpoint, "TOKEN FILE"))
        }
    };
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush()); // whoever does not read it may not need it
}

fn how_to_send(endpoint: &str, token_file: &str) -> String {
    format!(
        "Agents send their spans here with\n  export OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}\n  \
         export OTEL_EXPORTER_OTLP_HEADERS=\"Authorization=Bearer%20$(cat '{token_file}')\"\n"
    )
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
