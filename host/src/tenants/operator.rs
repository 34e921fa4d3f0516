//! The operator's file: which tenants there are, and what each may use.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::TenantError;
use super::confine::real;
use crate::config::{self, ConfigError, Granted, Options, Provider, ServeOptions, is_folder_name, size};
use crate::plugins::PluginGrants;

/// The operator's file, checked.
#[derive(Debug)]
pub struct Operator {
    path: PathBuf,
    /// Has a folder for each tenant.
    tenants_dir: PathBuf,
    /// Real paths of what every tenant may read.
    shared_dirs: Vec<PathBuf>,
    serve: ServeOptions,
    defaults: Terms,
    tenants: BTreeMap<String, Terms>,
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tenants_dir: PathBuf,
    #[serde(default)]
    shared_dirs: Vec<PathBuf>,
    #[serde(default)]
    serve: ServeOptions,
    #[serde(default)]
    defaults: Terms,
    #[serde(default)]
    tenants: BTreeMap<String, Terms>,
}

/// What a tenant gets; a key that its own table lacks is that of `[defaults]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Terms {
    /// The token by which the tenant is known to `serve`; never a default.
    token_file: Option<PathBuf>,
    store_quota: Option<String>,
    output_quota: Option<String>,
    memory_limit: Option<String>,
    /// Phoenix servers that may be read.
    phoenix_urls: Option<Vec<String>>,
    /// Servers that may be asked for generated examples.
    synthetic_urls: Option<Vec<String>>,
    /// Engines that tenants' trainings may be submitted to.
    remote_providers: Option<Vec<Provider>>,
    /// Addresses of these engines, and of the stores that jobs go through.
    remote_urls: Option<Vec<String>>,
    /// Of `PluginGrants`, key by key.
    plugins: toml::Table,
}

/// One tenant, and what is its own.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its name.
    pub id: String,
    /// The real path of its folder.
    pub folder: PathBuf,
    /// The file with the token by which `serve` knows it.
    pub token_file: Option<PathBuf>,
    /// What it may use.
    pub granted: Granted,
    /// Real paths of what it may read besides.
    pub(super) shared_dirs: Vec<PathBuf>,
}

impl Operator {
    /// Reads the file at `path`; relative paths in it start from its folder.
    ///
    /// # Errors
    /// [`ConfigError`] for what is no such file, and [`TenantError::Operator`] for what makes no sense in one.
    pub fn open(path: &Path) -> Result<Self, crate::HostError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let file: File = toml::from_str(&text).map_err(|error| ConfigError::syntax(path, &error))?;
        let wrong = |what: String| TenantError::Operator { file: path.to_owned(), what };
        let base = path.parent().unwrap_or(Path::new(""));
        let folder = |key: &str, folder: &Path| match base.join(folder).canonicalize() {
            Ok(real) if real.is_dir() => Ok(real),
            _ => {
                Err(wrong(format!("`{key}` is `{}`, which is no folder: make it, or mend the path", folder.display())))
            }
        };
        let tenants_dir = folder("tenants_dir", &file.tenants_dir)?;
        let shared_dirs =
            file.shared_dirs.iter().map(|dir| folder("shared_dirs", dir)).collect::<Result<Vec<_>, _>>()?;
        if let Some(dir) = shared_dirs.iter().find(|dir| tenants_dir.starts_with(dir) || dir.starts_with(&tenants_dir))
        {
            let what =
                format!("`{}` of `shared_dirs` overlaps `tenants_dir`: what is shared lies elsewhere", dir.display());
            return Err(wrong(what).into());
        }
        if file.serve.token_file.is_some() || file.serve.store_quota.is_some() {
            let what = "`token_file` and `store_quota` are a tenant's: set them in `[tenants.NAME]`, not in `[serve]`";
            return Err(wrong(what.to_owned()).into());
        }
        if file.tenants.is_empty() {
            return Err(wrong("there is no tenant: give each a table `[tenants.NAME]`".to_owned()).into());
        }
        if file.defaults.token_file.is_some() {
            return Err(
                wrong("`token_file` in `[defaults]` would make all tenants one: give each its own".to_owned()).into()
            );
        }
        if let Some(name) = file.tenants.keys().find(|name| !is_folder_name(name)) {
            let what =
                format!("`[tenants.{name:?}]` names a folder: use letters, digits, `_`, `-` and `.`, no leading `.`");
            return Err(wrong(what).into());
        }
        let relative = |terms: Terms| Terms { token_file: terms.token_file.map(|file| base.join(file)), ..terms };
        let tenants = file.tenants.into_iter().map(|(name, terms)| (name, relative(terms))).collect();
        let mut serve = file.serve;
        for file in serve.tls_cert.iter_mut().chain(&mut serve.tls_key) {
            *file = base.join(&*file);
        }
        let (path, defaults) = (path.to_owned(), file.defaults);
        let operator = Self { path, tenants_dir, shared_dirs, serve, defaults, tenants };
        operator.granted(&Terms::default())?;
        // A mistake in one tenant's table is the operator's to hear of, whoever is served.
        for terms in operator.tenants.values() {
            operator.granted(terms)?;
        }
        Ok(operator)
    }

    /// `[serve]`, with `flags` over it.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`].
    pub fn serving(&self, flags: &ServeOptions) -> Result<ServeOptions, ConfigError> {
        let options = |serve: &ServeOptions| Options { serve: serve.clone(), ..Options::default() };
        let merged = config::merge(&options(&self.serve), &options(flags));
        merged.map(|options| options.serve).map_err(|error| ConfigError::syntax(&self.path, &error))
    }

    /// The names of the tenants.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tenants.keys().map(String::as_str)
    }

    /// One tenant, whose folder is made where it is new.
    ///
    /// # Errors
    /// [`TenantError::Unknown`] and [`TenantError::Folder`].
    pub fn tenant(&self, id: &str) -> Result<Tenant, TenantError> {
        let Some(terms) = self.tenants.get(id) else {
            return Err(TenantError::Unknown { file: self.path.clone(), tenant: id.to_owned() });
        };
        let folder = self.tenants_dir.join(id);
        let unusable = |what: String| TenantError::Folder { folder: folder.clone(), tenant: id.to_owned(), what };
        if folder.symlink_metadata().is_err() {
            DirBuilder::new().mode(0o700).create(&folder).map_err(|error| unusable(error.to_string()))?;
        }
        // A link could lead to another tenant's.
        if real(&folder).as_ref() != Some(&folder) || !folder.is_dir() {
            return Err(unusable("it must be a real folder".to_owned()));
        }
        Ok(Tenant {
            id: id.to_owned(),
            token_file: terms.token_file.clone(),
            granted: self.granted(terms)?,
            shared_dirs: self.shared_dirs.clone(),
            folder,
        })
    }

    fn granted(&self, terms: &Terms) -> Result<Granted, TenantError> {
        let defaults = &self.defaults;
        let bytes = |key: &str, own: &Option<String>, default: &Option<String>| {
            let Some(text) = own.as_ref().or(default.as_ref()) else { return Ok(None) };
            size::parse(text).map(Some).ok_or_else(|| {
                let what = format!("`{key}` is {text:?}: give a size such as `2GiB` or `512MiB`");
                TenantError::Operator { file: self.path.clone(), what }
            })
        };
        let remote_providers = terms.remote_providers.as_ref().or(defaults.remote_providers.as_ref());
        if let Some(provider) = remote_providers.into_iter().flatten().find(|provider| !provider.keeps_tenants_apart())
        {
            let what = format!(
                "`remote_providers` has `{}`, which runs programs and spends as the machine's user: tenants may have `ray` and \
                 `modal`, a worker of our own included",
                provider.name()
            );
            return Err(TenantError::Operator { file: self.path.clone(), what });
        }
        Ok(Granted {
            store_quota: bytes("store_quota", &terms.store_quota, &defaults.store_quota)?,
            output_quota: bytes("output_quota", &terms.output_quota, &defaults.output_quota)?,
            memory_limit: bytes("memory_limit", &terms.memory_limit, &defaults.memory_limit)?,
            plugins: self.plugin_grants(&terms.plugins)?,
            phoenix_urls: Some(
                terms.phoenix_urls.clone().or_else(|| defaults.phoenix_urls.clone()).unwrap_or_default(),
            ),
            synthetic_urls: Some(
                terms.synthetic_urls.clone().or_else(|| defaults.synthetic_urls.clone()).unwrap_or_default(),
            ),
            remote_providers: Some(remote_providers.cloned().unwrap_or_default()),
            remote_urls: Some(terms.remote_urls.clone().or_else(|| defaults.remote_urls.clone()).unwrap_or_default()),
        })
    }
}

impl Operator {
    /// A tenant's own keys over those of `[defaults.plugins]`.
    fn plugin_grants(&self, own: &toml::Table) -> Result<PluginGrants, TenantError> {
        let mut table = self.defaults.plugins.clone();
        table.extend(own.clone());
        table.try_into().map_err(|error: toml::de::Error| {
            let what = format!("`plugins` of a tenant or of `[defaults]`: {}", error.message());
            TenantError::Operator { file: self.path.clone(), what }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::os::unix::fs::symlink;

    use super::*;

    fn open(text: &str) -> (tempfile::TempDir, Result<Operator, String>) {
        let box_ = tempfile::tempdir().unwrap();
        for folder in ["tenants", "models"] {
            fs::create_dir(box_.path().join(folder)).unwrap();
        }
        let path = box_.path().join("operator.toml");
        fs::write(&path, text).unwrap();
        let opened = Operator::open(&path).map_err(|error| error.to_string());
        (box_, opened)
    }

    #[test]
    fn a_tenant_has_the_defaults_but_for_its_own_terms() {
        let (box_, operator) = open(
            "tenants_dir = \"tenants\"\nshared_dirs = [\"models\"]\n[defaults]\nstore_quota = \"1GiB\"\n\
             output_quota = \"2GiB\"\n[defaults.plugins]\nrequire_pin = true\nmax_memory_mib = 8\n[tenants.acme]\n\
             token_file = \"acme.token\"\nstore_quota = \"3GiB\"\n[tenants.acme.plugins]\nmax_memory_mib = 16\n[tenants.beta]\n",
        );
        let operator = operator.unwrap();
        assert_eq!(operator.names().collect::<Vec<_>>(), ["acme", "beta"]);
        let (acme, beta) = (operator.tenant("acme").unwrap(), operator.tenant("beta").unwrap());
        assert_eq!((acme.granted.store_quota, acme.granted.output_quota), (Some(3 << 30), Some(2 << 30)));
        assert_eq!((beta.granted.store_quota, beta.granted.memory_limit), (Some(1 << 30), None));
        assert_eq!((&beta.granted.phoenix_urls, &beta.granted.synthetic_urls), (&Some(vec![]), &Some(vec![])));
        let plugins = |tenant: &Tenant| (tenant.granted.plugins.require_pin, tenant.granted.plugins.max_memory_mib);
        assert_eq!((plugins(&acme), plugins(&beta)), ((true, NonZeroU32::new(16)), (true, NonZeroU32::new(8))));
        let root = box_.path().canonicalize().unwrap();
        assert_eq!((acme.folder, acme.shared_dirs), (root.join("tenants/acme"), vec![root.join("models")]));
        assert_eq!((acme.token_file, beta.token_file), (Some(box_.path().join("acme.token")), None));
    }

    #[test]
    fn a_file_that_would_not_keep_tenants_apart_is_refused() {
        let error = |text: &str| {
            let (box_, operator) = open(text);
            operator.unwrap_err().replace(&box_.path().display().to_string(), "BOX")
        };
        let dirs = "tenants_dir = \"tenants\"\n";
        assert_eq!(
            error("tenants_dir = \"nowhere\""),
            "`BOX/operator.toml`: `tenants_dir` is `nowhere`, which is no folder: make it, or mend the path"
        );
        assert!(
            error("tenants_dir = \"tenants\"\nshared_dirs = [\".\"]")
                .contains("of `shared_dirs` overlaps `tenants_dir`")
        );
        assert_eq!(error(dirs), "`BOX/operator.toml`: there is no tenant: give each a table `[tenants.NAME]`");
        let dirs = "tenants_dir = \"tenants\"\n[tenants.zeta]\n";
        assert!(error(&format!("{dirs}[defaults]\ntoken_file = \"t\"")).contains("would make all tenants one"));
        assert_eq!(
            error(&format!("{dirs}[tenants.\"../x\"]")),
            "`BOX/operator.toml`: `[tenants.\"../x\"]` names a folder: use letters, digits, `_`, `-` and `.`, no leading `.`"
        );
        assert_eq!(
            error(&format!("{dirs}[tenants.acme.plugins]\nwants = [\"files\"]")),
            "`BOX/operator.toml`: `plugins` of a tenant or of `[defaults]`: unknown variant `files`, expected one of `log`, \
             `settings`, `wasi`"
        );
        assert_eq!(
            error(&format!("{dirs}[tenants.acme]\nstore_quota = \"much\"")),
            "`BOX/operator.toml`: `store_quota` is \"much\": give a size such as `2GiB` or `512MiB`"
        );
        assert!(
            error(&format!("{dirs}[tenants.acme]\nstore_qota = \"1GiB\"")).ends_with("did you mean `store_quota`?")
        );
    }

    #[test]
    fn a_tenants_folder_that_is_a_link_to_anothers_is_refused() {
        let (box_, operator) = open("tenants_dir = \"tenants\"\n[tenants.acme]\n[tenants.beta]\n");
        let operator = operator.unwrap();
        operator.tenant("beta").unwrap();
        symlink(box_.path().join("tenants/beta"), box_.path().join("tenants/acme")).unwrap();
        assert!(operator.tenant("acme").unwrap_err().to_string().ends_with("it must be a real folder"));
        let unknown = operator.tenant("gamma").unwrap_err().to_string();
        assert!(unknown.contains("has no tenant `gamma`") && !unknown.contains("beta"), "{unknown}");
    }
}
