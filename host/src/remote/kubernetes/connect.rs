//! The cluster that is meant, and who we are there.

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use super::RemoteError;
use crate::config::RemoteConfig;
use crate::http::{block_on, innermost, install_crypto};

/// A log is the largest answer, and comes in pieces.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client, and where it leads.
pub(super) struct Connection {
    pub(super) client: Client,
    /// `https://10.0.0.1:6443`
    pub(super) server: String,
    pub(super) namespace: String,
}

pub(super) fn connect(config: &RemoteConfig) -> Result<Connection, RemoteError> {
    install_crypto();
    let mut cluster = cluster(config)?;
    cluster.connect_timeout = Some(CONNECT_TIMEOUT);
    cluster.read_timeout = Some(READ_TIMEOUT);
    // Otherwise the time that a connection sat idle would count.
    cluster.reset_reader_on_write = true;
    // Repeating is the caller's.
    cluster.default_retry = false;
    let server = cluster.cluster_url.to_string().trim_end_matches('/').to_owned();
    let namespace = config.kubernetes.namespace.clone().unwrap_or_else(|| cluster.default_namespace.clone());
    // The client has a task of its own, and so wants to be made where tasks run.
    let client = block_on(async { Client::try_from(cluster) });
    let client = client.map_err(|error| kubeconfig(innermost(&error)))?;
    Ok(Connection { client, server, namespace })
}

fn cluster(config: &RemoteConfig) -> Result<Config, RemoteError> {
    let options = &config.kubernetes;
    let of_file = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    let read = match &options.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| kubeconfig(told(&error)))?;
            if !config.secrets_of_environment {
                refuse_what_is_outside(&file)?;
            }
            block_on(Config::from_custom_kubeconfig(file, &of_file))
        }
        None if !config.secrets_of_environment => {
            return Err(kubeconfig("is needed for a tenant: the machine's own is the operator's".to_owned()));
        }
        None => block_on(Config::from_kubeconfig(&of_file)),
    };
    match read {
        Ok(cluster) => Ok(cluster),
        Err(error) if options.kubeconfig.is_some() || options.context.is_some() => Err(kubeconfig(told(&error))),
        // In a pod there is none, and a service account instead.
        Err(error) => Config::incluster().map_err(|incluster| {
            kubeconfig(format!("{}, and this is no pod of a cluster ({})", told(&error), innermost(&incluster)))
        }),
    }
}

/// A tenant's kubeconfig runs no program of this machine and sends none of its files anywhere.
fn refuse_what_is_outside(file: &Kubeconfig) -> Result<(), RemoteError> {
    let refuse = |what: &str| {
        Err(kubeconfig(format!(
            "of a tenant may not have `{what}`: it reaches out of the tenant's folder; write what it gives in it"
        )))
    };
    for user in file.auth_infos.iter().filter_map(|named| named.auth_info.as_ref()) {
        let outside = [
            ("exec", user.exec.is_some()),
            ("auth-provider", user.auth_provider.is_some()),
            ("tokenFile", user.token_file.is_some()),
            ("client-certificate", user.client_certificate.is_some()),
            ("client-key", user.client_key.is_some()),
        ];
        if let Some((what, _)) = outside.into_iter().find(|(_, is_there)| *is_there) {
            return refuse(what);
        }
    }
    let mut clusters = file.clusters.iter().filter_map(|named| named.cluster.as_ref());
    if clusters.any(|cluster| cluster.certificate_authority.is_some()) {
        return refuse("certificate-authority");
    }
    Ok(())
}

fn kubeconfig(message: String) -> RemoteError {
    RemoteError::Config { key: "remote.kubernetes.kubeconfig", message }
}

/// Its own words have the file and the cause.
fn told(error: &KubeconfigError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    const KUBECONFIG: &str = r#"
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: main, context: {cluster: c, user: u, namespace: lora}}]
current-context: main
users: [{name: u, user: USER}]
"#;

    fn connected(user: &str, environment: bool, more: &str) -> Result<(String, String), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, KUBECONFIG.replace("USER", user)).unwrap();
        let toml = format!("backend_provider = \"kubernetes\"\n[remote.kubernetes]\nkubeconfig = {path:?}\n{more}");
        let options: Options = toml::from_str(&toml).unwrap();
        let mut config = RemoteConfig::new(&options).unwrap();
        config.secrets_of_environment = environment;
        let connection = connect(&config).map_err(|error| error.to_string())?;
        Ok((connection.server, connection.namespace))
    }

    #[test]
    fn a_kubeconfig_names_the_server_and_the_namespace_and_the_configuration_wins() {
        let of = |more| connected("{token: abc}", true, more);
        assert_eq!(of(""), Ok(("http://127.0.0.1:1".to_owned(), "lora".to_owned())));
        assert_eq!(of("namespace = \"mine\"").map(|(_, namespace)| namespace), Ok("mine".to_owned()));
        let unknown = of("context = \"other\"").unwrap_err();
        assert_eq!(unknown, "`remote.kubernetes.kubeconfig`: failed to load current context: other");
    }

    #[test]
    fn a_tenants_kubeconfig_runs_no_program_and_reads_no_file() {
        assert!(connected("{token: abc}", false, "").is_ok());
        for (user, what) in [
            ("{exec: {command: cat, args: [/etc/shadow]}}", "exec"),
            ("{tokenFile: /etc/token}", "tokenFile"),
            ("{client-key: /etc/key.pem}", "client-key"),
        ] {
            let told = connected(user, false, "").unwrap_err();
            assert_eq!(
                told,
                format!(
                    "`remote.kubernetes.kubeconfig`: of a tenant may not have `{what}`: it reaches out of the tenant's folder; \
                     write what it gives in it"
                )
            );
        }
    }
}
