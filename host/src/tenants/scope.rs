//! Whom a command works for, and so what it may read and write.

use std::path::{Path, PathBuf};

use super::TenantError;
use super::confine::{leads_into, real};
use super::operator::{Operator, Tenant};
use crate::approval;
use crate::config::{self, Backend, ConfigError, DEFAULT_FILE, Options};
use crate::error::HostError;
use crate::plugins::PinnedRef;

/// Whom a command works for.
#[derive(Debug)]
pub enum Scope {
    /// The user of this machine, who may name any path.
    User {
        /// Keeps default stores apart.
        tenant_id: Option<String>,
    },
    /// A tenant of the operator's file.
    Tenant(Box<Tenant>),
}

impl Scope {
    /// The tenant `tenant_id` of `operator`'s file, or without one the user.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] where the file has tenants and none is named, and those of [`Operator::open`] and
    /// [`Operator::tenant`].
    pub fn new(operator: Option<&Path>, tenant_id: Option<&str>) -> Result<Self, HostError> {
        let Some(path) = operator else { return Ok(Self::User { tenant_id: tenant_id.map(str::to_owned) }) };
        let operator = Operator::open(path)?;
        let remedy = || format!("name the tenant with `--tenant-id`: `{}` has several", path.display());
        let tenant_id = tenant_id.ok_or_else(|| ConfigError::Missing { key: "tenant_id", remedy: remedy() })?;
        Ok(Self::Tenant(Box::new(operator.tenant(tenant_id)?)))
    }

    /// The configuration in `file` with `flags` over it, and the file that was read. Without a file it is
    /// [`DEFAULT_FILE`]: of the current folder, or of the tenant's.
    ///
    /// # Errors
    /// [`HostError::Config`], and [`HostError::Tenant`] where a path leads out of the tenant's reach.
    pub fn load(&self, file: Option<&Path>, flags: &Options) -> Result<(Options, Option<PathBuf>), HostError> {
        match self {
            Self::User { tenant_id } => {
                let flags = Options { tenant_id: tenant_id.clone(), ..flags.clone() };
                let file = file.map(Path::to_owned).or_else(|| config::default_file().map(Path::to_owned));
                Ok(config::load(file.as_deref(), &flags)?)
            }
            Self::Tenant(tenant) => tenant.load(file, flags),
        }
    }

    /// Settings that a run was begun with, checked as a configuration is: what the tenant may have can have changed since.
    ///
    /// # Errors
    /// As for [`Scope::load`].
    pub fn restore(&self, options: Options) -> Result<Options, HostError> {
        match self {
            Self::User { .. } => Ok(options),
            Self::Tenant(tenant) => tenant.hold(options),
        }
    }

    /// Checks that `path`, which `what` names, may be read.
    ///
    /// # Errors
    /// [`TenantError::OutOfReach`].
    pub fn check_read(&self, what: &str, path: &Path) -> Result<(), TenantError> {
        match self {
            Self::User { .. } => Ok(()),
            Self::Tenant(tenant) => tenant.check_read(what, path),
        }
    }

    /// Checks that `path`, which `what` names, may be written.
    ///
    /// # Errors
    /// [`TenantError::OutOfReach`].
    pub fn check_write(&self, what: &str, path: &Path) -> Result<(), TenantError> {
        match self {
            Self::User { .. } => Ok(()),
            Self::Tenant(tenant) => tenant.check_write(what, path),
        }
    }

    /// Checks that the engine or store at `url` may be reached.
    ///
    /// # Errors
    /// [`TenantError::NotGranted`].
    pub fn check_address(&self, what: &'static str, url: &str) -> Result<(), TenantError> {
        match self {
            Self::User { .. } => Ok(()),
            Self::Tenant(tenant) => tenant.check_url(what, url, "remote_urls", &tenant.granted.remote_urls),
        }
    }

    /// Checks that a model may be read: a folder or a file, or a name in the hub cache of this machine.
    ///
    /// # Errors
    /// [`TenantError::OutOfReach`].
    pub fn check_model(&self, model: &Path) -> Result<(), TenantError> {
        match self {
            Self::User { .. } => Ok(()),
            Self::Tenant(tenant) => tenant.check_model(model),
        }
    }

    /// Checks that a plugin may be read: a component and what lies beside it, or a built-in one.
    ///
    /// # Errors
    /// [`TenantError::OutOfReach`].
    pub fn check_plugin(&self, plugin: &str) -> Result<(), TenantError> {
        match self {
            Self::User { .. } => Ok(()),
            Self::Tenant(tenant) => tenant.check_plugin(plugin),
        }
    }

    /// Checks that libraries in `folder` may be loaded: they run as this process.
    ///
    /// # Errors
    /// [`TenantError::NotGranted`].
    pub fn check_libraries(&self, folder: Option<&Path>) -> Result<(), TenantError> {
        match (self, folder) {
            (Self::Tenant(tenant), Some(folder)) => tenant.check_libraries(folder),
            _ => Ok(()),
        }
    }
}

impl Tenant {
    fn load(&self, file: Option<&Path>, flags: &Options) -> Result<(Options, Option<PathBuf>), HostError> {
        let default = self.folder.join(DEFAULT_FILE);
        let file = file.or_else(|| default.symlink_metadata().is_ok().then_some(&default));
        if let Some(file) = file {
            self.check(file, "config", file, "read", &[&self.folder])?;
        }
        let (mut options, file) = config::load(file, &Options { tenant_id: None, ..flags.clone() })?;
        if let (Some(file), Some(found)) = (&file, options.tenant_id.take_if(|found| *found != self.id)) {
            return Err(TenantError::OtherTenant { file: file.clone(), found, tenant: self.id.clone() }.into());
        }
        Ok((self.hold(options)?, file))
    }

    /// Settings within what the tenant has.
    fn hold(&self, mut options: Options) -> Result<Options, HostError> {
        options.tenant_id = Some(self.id.clone());
        options.telemetry.store.get_or_insert_with(|| self.folder.join("telemetry.sqlite"));
        options.output_dir.get_or_insert_with(|| self.folder.join("outputs/adapters"));
        let approvals = options.telemetry.store.as_deref().map(approval::store_beside);
        options.review.approvals = options.review.approvals.or(approvals);
        let people = options.review.approvals.as_deref().map(|approvals| approvals.with_file_name("people.toml"));
        options.review.people = options.review.people.or(people);
        self.check_options(&options)?;
        let limit = options.training.memory_limit.as_deref().and_then(config::size::parse);
        if let Some(granted) = self.granted.memory_limit
            && limit.is_none_or(|limit| limit > granted)
        {
            options.training.memory_limit = Some(granted.to_string());
        }
        options.granted = self.granted.clone();
        Ok(options)
    }

    /// Every path that a configuration can name.
    fn check_options(&self, options: &Options) -> Result<(), TenantError> {
        let telemetry = &options.telemetry;
        let stores = [("telemetry.store", &telemetry.store), ("review.approvals", &options.review.approvals)];
        for (what, store) in stores {
            let Some(store) = store else { continue };
            // SQLite follows the links of its side files, too.
            for file in ["", "-wal", "-shm", "-journal"] {
                let file = PathBuf::from(format!("{}{file}", store.display()));
                self.check(store, what, &file, "write", &[&self.folder])?;
            }
        }
        if let Some(people) = &options.review.people {
            self.check_write("review.people", people)?;
        }
        if let Some(output_dir) = &options.output_dir {
            self.check_write("output_dir", output_dir)?;
        }
        for export in telemetry.import.iter().flatten() {
            self.check_read("telemetry.import", export)?;
        }
        let keys = [
            ("telemetry.phoenix_api_key_file", &telemetry.phoenix_api_key_file),
            ("synthetic.synthetic_api_key_file", &options.synthetic.synthetic_api_key_file),
        ];
        for (what, key) in keys {
            key.iter().try_for_each(|key| self.check(key, what, key, "read", &[&self.folder]))?;
        }
        if let Some(model) = &options.base_model {
            self.check_model(model)?;
        }
        if let Some(folder) = &options.compute.cuda_libs {
            self.check_libraries(folder)?;
        }
        if let Some(url) = &telemetry.phoenix_url {
            self.check_url("phoenix_url", url, "phoenix_urls", &self.granted.phoenix_urls)?;
        }
        if let Some(url) = &options.synthetic.synthetic_url {
            self.check_url("synthetic_url", url, "synthetic_urls", &self.granted.synthetic_urls)?;
        }
        self.check_remote(options)?;
        let agents = options.agents.values().flat_map(|agent| [&agent.extractor, &agent.formatter, &agent.policy]);
        let plugins = [&options.plugins.extractor, &options.plugins.formatter, &options.plugins.policy];
        for plugin in plugins.into_iter().chain(agents).flatten() {
            self.check_plugin(plugin)?;
        }
        Ok(())
    }

    fn check_url(
        &self,
        what: &'static str,
        url: &str,
        grant: &'static str,
        granted: &Option<Vec<String>>,
    ) -> Result<(), TenantError> {
        match granted.iter().flatten().any(|granted| same_server(granted, url)) {
            true => Ok(()),
            false => Err(TenantError::NotGranted { tenant: self.id.clone(), what, value: url.to_owned(), grant }),
        }
    }

    /// Other machines are reached as the machine's user, whoever asks.
    fn check_remote(&self, options: &Options) -> Result<(), TenantError> {
        let remote = &options.remote;
        for (what, file) in remote.files() {
            self.check(file, what, file, "read", &[&self.folder])?;
        }
        let Some(provider) = options.backend_provider.filter(|_| options.backend == Some(Backend::Remote)) else {
            return Ok(());
        };
        let (tenant, grant) = (self.id.clone(), "remote_providers");
        if !self.granted.remote_providers.iter().flatten().any(|granted| *granted == provider) {
            let (what, value) = ("backend_provider", provider.name().to_owned());
            return Err(TenantError::NotGranted { tenant, what, value, grant });
        }
        // It would run as the user that the engine knows, not as the tenant.
        if let Some(program) = &remote.remote_program {
            let (what, value) = ("remote.remote_program", program.display().to_string());
            return Err(TenantError::OperatorsOnly { tenant, what, value });
        }
        remote
            .addresses()
            .into_iter()
            .try_for_each(|(what, url)| self.check_url(what, url, "remote_urls", &self.granted.remote_urls))
    }

    fn check_plugin(&self, plugin: &str) -> Result<(), TenantError> {
        // What lies beside a component is read with it, and quoted where it is wrong.
        let files = PinnedRef::place(plugin).files();
        let roots = self.readable();
        files.iter().try_for_each(|file| self.check(&files[0], "plugins", file, "read", &roots))
    }

    fn check_read(&self, what: &str, path: &Path) -> Result<(), TenantError> {
        self.check(path, what, path, "read", &self.readable())
    }

    fn check_write(&self, what: &str, path: &Path) -> Result<(), TenantError> {
        self.check(path, what, path, "write", &[&self.folder])
    }

    fn check_model(&self, model: &Path) -> Result<(), TenantError> {
        let is_name = model.to_str().is_some_and(|name| {
            let parts: Vec<_> = name.split('/').collect();
            parts.len() == 2 && parts.iter().all(|part| !part.is_empty() && !part.starts_with('.'))
        });
        match is_name && real(model).is_none_or(|path| !path.exists()) {
            true => Ok(()), // of the hub cache, which is the machine's
            false => self.check_read("base_model", model),
        }
    }

    fn check_libraries(&self, folder: &Path) -> Result<(), TenantError> {
        let shared: Vec<_> = self.shared_dirs.iter().map(PathBuf::as_path).collect();
        if leads_into(folder, &shared) {
            return Ok(());
        }
        let (tenant, value) = (self.id.clone(), folder.display().to_string());
        Err(TenantError::NotGranted { tenant, what: "cuda_libs", value, grant: "shared_dirs" })
    }

    fn readable(&self) -> Vec<&Path> {
        std::iter::once(&self.folder).chain(&self.shared_dirs).map(PathBuf::as_path).collect()
    }

    /// `named` is what the tenant wrote, `path` what would be opened.
    fn check(
        &self,
        named: &Path,
        what: &str,
        path: &Path,
        action: &'static str,
        roots: &[&Path],
    ) -> Result<(), TenantError> {
        if leads_into(path, roots) {
            return Ok(());
        }
        let (what, path) = (what.to_owned(), named.to_owned());
        Err(TenantError::OutOfReach { what, path, tenant: self.id.clone(), action, folder: self.folder.clone() })
    }
}

/// Scheme, host and port; and below the granted path, where it has one.
fn same_server(granted: &str, url: &str) -> bool {
    let (Ok(granted), Ok(url)) = (reqwest::Url::parse(granted), reqwest::Url::parse(url)) else { return false };
    let below = granted.path().trim_end_matches('/');
    let path = url.path();
    granted.origin() == url.origin()
        && (path == below || path.strip_prefix(below).is_some_and(|rest| rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::same_server;

    #[test]
    fn a_granted_server_is_its_origin_and_path_and_no_lookalike() {
        let granted = "https://phoenix.example.com/acme/";
        for url in ["https://phoenix.example.com/acme", "https://phoenix.example.com:443/acme/"] {
            assert!(same_server(granted, url), "{url}");
        }
        let others = [
            "https://phoenix.example.com",
            "http://phoenix.example.com/acme",
            "https://phoenix.example.com/acme2",
            "https://phoenix.example.com/acme/../beta",
            "https://phoenix.example.com:6006/acme",
            "https://phoenix.example.com.evil.org/acme",
            "https://phoenix.example.com@evil.org/acme",
            "not a url",
        ];
        for url in others {
            assert!(!same_server(granted, url), "{url}");
        }
        assert!(same_server("http://127.0.0.1:6006", "http://127.0.0.1:6006/"));
    }
}
