//! `tunesmith serve`: pages for those who review, and with `--otlp` the receiver of telemetry, until it is told to end.

use std::io::Write;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use super::Answer;
use crate::cli::{ScopeArgs, ServeArgs};
use crate::config::{self, ConfigError, Options, ReviewConfig, RunConfig, ServeConfig};
use crate::error::HostError;
use crate::people::{People, Person, Role};
use crate::progress::Progress;
use crate::server::{self, Question, RunConfigOf, Server, ServerError, TenantAccess, WorkerAccess};
use crate::tenants::{Operator, Scope};

/// A tenant, and where its clients find their token.
struct Served {
    access: TenantAccess,
    /// None where no telemetry is received.
    token_file: Option<PathBuf>,
    /// Where the token is of the person that was made because there was nobody, as long as it is theirs.
    review_token: Option<PathBuf>,
}

/// Where jobs of other hosts are trained, and where those find their token.
struct Working {
    access: WorkerAccess,
    token_file: PathBuf,
}

pub(super) fn run(scope: &ScopeArgs, args: ServeArgs, json: bool, progress: &Progress) -> Result<Answer, HostError> {
    let worker = args.worker;
    let (config, mut served, run_config) = match &scope.operator {
        None => of_user(scope.tenant_id.clone(), args)?,
        Some(file) => of_operator(Operator::open(file)?, scope.tenant_id.as_deref(), args)?,
    };
    let working = worker.then(|| working(&config, &served)).transpose()?;
    let server = Server::bind(config, served.iter().map(|served| served.access.clone()).collect(), run_config)?;
    let server = match &working {
        Some(working) => server.with_worker(working.access.clone())?,
        None => server,
    };
    if let (None, [served]) = (&scope.operator, served.as_mut_slice()) {
        served.review_token = somebody(&served.access.people)?;
    }
    announce(&server, &served, working.as_ref(), json);
    let received = server.run(progress, stopped())?;
    let stores: Vec<_> = served.iter().map(|served| format!("store: {}", served.access.store.display())).collect();
    Ok(Answer::new(stores.join("\n"), &received))
}

/// How to serve, whom, and by which configuration what they sent is analyzed.
type Serving = (ServeConfig, Vec<Served>, Box<RunConfigOf>);

/// The one tenant that the user of a machine is.
fn of_user(tenant_id: Option<String>, args: ServeArgs) -> Result<Serving, HostError> {
    let scope = Scope::User { tenant_id };
    let flags = args.options();
    let flags = Options { serve: args.serve.clone(), ..flags };
    let (options, _) = scope.load(args.store.config.as_deref(), &flags)?;
    let config = ServeConfig::new(&options)?;
    let store = config::store_path(&options)?;
    let token_file = config.token_file.clone().unwrap_or_else(|| server::file_beside(&store));
    let token = args.otlp.then(|| server::read_or_make(&token_file, config.token_file.is_none())).transpose()?;
    let review = ReviewConfig::new(&options)?;
    let access = TenantAccess {
        tenant_id: config::tenant_id(&options)?,
        token_sha256: token.as_deref().map(server::token_sha256),
        store,
        store_quota: config.store_quota,
        output_dir: config::output_dir(&options),
        approvals: review.approvals,
        people: review.people,
    };
    let token_file = args.otlp.then_some(token_file);
    let run_config = move |_: &str, question: &Question| {
        let (options, _) = scope.load(args.store.config.as_deref(), &asked(question, args.options()))?;
        Ok(RunConfig::new(options)?)
    };
    Ok((config, vec![Served { access, token_file, review_token: None }], Box::new(run_config)))
}

/// All tenants of the operator's file, or the one that is named. What is wrong with one is told, and the others are served.
fn of_operator(operator: Operator, tenant_id: Option<&str>, args: ServeArgs) -> Result<Serving, HostError> {
    let own_of_each = [
        ("config", args.store.config.is_some()),
        ("store", args.store.store.is_some()),
        ("token_file", args.serve.token_file.is_some()),
        ("store_quota", args.serve.store_quota.is_some()),
        ("approvals", args.review.approvals.is_some()),
        ("people", args.review.people.is_some()),
        ("output_dir", args.output_dir.is_some()),
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
        match of_tenant(&operator, id, args.otlp) {
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

fn of_tenant(operator: &Operator, id: &str, otlp: bool) -> Result<Served, HostError> {
    let tenant = operator.tenant(id)?;
    let (given, folder, store_quota) = (tenant.token_file.clone(), tenant.folder.clone(), tenant.granted.store_quota);
    let scope = Scope::Tenant(Box::new(tenant));
    let (options, _) = scope.load(None, &Options::default())?;
    let token_file = given.clone().unwrap_or_else(|| server::file_beside(&folder.join("store")));
    if given.is_none() {
        scope.check_write("serve.token", &token_file)?;
    }
    let token = otlp.then(|| server::read_or_make(&token_file, given.is_none())).transpose()?;
    let token_sha256 = token.as_deref().map(server::token_sha256);
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
    if People::open(&access.people)?.is_empty() {
        tracing::warn!("nobody may review for tenant `{id}`: `tunesmith people add NAME --role admin --tenant {id}`");
    }
    Ok(Served { access, token_file: otlp.then_some(token_file), review_token: None })
}

/// Where there is nobody, the owner of this account becomes the first, and their token is written beside the file of people; a later
/// start finds it there.
fn somebody(people: &Path) -> Result<Option<PathBuf>, HostError> {
    let file = server::review_file_beside(people);
    let mut people = People::open(people)?;
    if !people.is_empty() {
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        return Ok(people.of_token(written.trim()).map(|_| file));
    }
    let account = Person::of_terminal();
    let token = people.add(account.name(), Role::Admin)?;
    match server::write_token(&file, &token) {
        Ok(()) => Ok(Some(file)),
        Err(error) => {
            people.remove(account.name())?; // nobody could ever sign in as them
            Err(error.into())
        }
    }
}

/// Jobs are no tenant's: whoever has the token trains here.
fn working(config: &ServeConfig, served: &[Served]) -> Result<Working, HostError> {
    let beside = |served: &Served| served.access.store.with_file_name("jobs");
    let jobs_dir = config.jobs_dir.clone().or_else(|| served.first().map(beside)).unwrap_or_else(|| "jobs".into());
    let token_file = config.worker_token_file.clone().unwrap_or_else(|| jobs_dir.join("worker.token"));
    let token = server::read_or_make(&token_file, config.worker_token_file.is_none())?;
    let token_sha256 = server::token_sha256(&token);
    let program = std::env::current_exe().map_err(ServerError::Runtime)?;
    Ok(Working { access: WorkerAccess { jobs_dir, token_sha256, max_bundle: config.max_bundle, program }, token_file })
}

/// Says where to send to, while it is already heard there.
fn announce(server: &Server, served: &[Served], working: Option<&Working>, json: bool) {
    let address = server.address();
    if !address.ip().is_loopback() && !server.is_encrypted() {
        tracing::warn!(
            "`{address}` is reached from other machines, and tokens come unencrypted: name a certificate with \
             `--tls-cert` and `--tls-key`, or put TLS before it"
        );
    }
    let endpoint = format!("{}://{address}", if server.is_encrypted() { "https" } else { "http" });
    let review = format!("{endpoint}/");
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let text = match json {
        true => {
            let tenant = |Served { access, token_file, review_token }: &Served| {
                serde_json::json!({
                    "tenant_id": access.tenant_id,
                    "store": access.store,
                    "token_file": token_file.as_deref().map(absolute),
                    "review_token_file": review_token.as_deref().map(absolute),
                })
            };
            let tenants: Vec<_> = served.iter().map(tenant).collect();
            let mut told =
                serde_json::json!({ "listening": address, "endpoint": endpoint, "review": review, "tenants": tenants });
            if let Some(Working { access, token_file }) = working {
                told["worker"] = serde_json::json!({
                    "jobs_dir": absolute(&access.jobs_dir),
                    "token_file": absolute(token_file),
                });
            }
            told.to_string()
        }
        false => {
            let shown = |path: &Option<PathBuf>| path.as_deref().map(|path| absolute(path).display().to_string());
            let (start, token_file) = match served {
                [Served { access, token_file, .. }] => {
                    (format!("listening at {endpoint}, store: {}\n", access.store.display()), shown(token_file))
                }
                _ => {
                    let tenant = |Served { access, token_file, .. }: &Served| {
                        let token = shown(token_file).map(|file| format!(", token {file}")).unwrap_or_default();
                        format!("{}: store {}{token}\n", access.tenant_id, access.store.display())
                    };
                    let tenants: String = served.iter().map(tenant).collect();
                    let receives = served.iter().any(|served| served.token_file.is_some());
                    (format!("listening at {endpoint}, tenants:\n{tenants}"), receives.then(|| "TOKEN FILE".to_owned()))
                }
            };
            let send = token_file.map(|file| format!("\n{}", how_to_send(&endpoint, &file))).unwrap_or_default();
            let sign_in = served.iter().find_map(|served| shown(&served.review_token));
            let sign_in = sign_in.map(|file| format!("  sign in with the token in {file}\n")).unwrap_or_default();
            let working = working.map(|working| how_to_train(&endpoint, &absolute(&working.token_file)));
            format!("{start}{send}\nreview at {review}\n{sign_in}{}", working.unwrap_or_default())
        }
    };
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush()); // whoever does not read it may not need it
}

fn how_to_train(endpoint: &str, token_file: &Path) -> String {
    format!(
        "\nHosts train here with this in their tunesmith.toml, and a copy of the token\n  backend = \"remote\"\n  \
         backend_provider = \"modal\"\n  [remote.modal]\n  url = \"{endpoint}\"\n  token_file = \"{}\"\n",
        token_file.display()
    )
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
