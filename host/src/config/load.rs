//! Flags and environment over `tunesmith.toml`: the layers, before defaults and checks.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Table;

use super::error::ConfigError;
use super::options::{Options, PluginSources};
use super::{Granted, output_dir};
use crate::plugins::{PinnedRef, PluginKind, PluginRef};

/// Read where no other file is named and it is there.
pub const DEFAULT_FILE: &str = "tunesmith.toml";

/// [`DEFAULT_FILE`] in the current folder, where it is there.
pub fn default_file() -> Option<&'static Path> {
    let default = Path::new(DEFAULT_FILE);
    default.is_file().then_some(default)
}

/// Lays `flags` (and the environment, which they hold where no flag was given) over the configuration in `file`.
///
/// Paths in a file are relative to that file.
///
/// # Errors
/// [`ConfigError::Read`] and [`ConfigError::Syntax`].
pub fn load(file: Option<&Path>, flags: &Options) -> Result<(Options, Option<PathBuf>), ConfigError> {
    let command_line = PluginKind::ALL.into_iter().filter(|&kind| flags.plugins.of_kind(kind).is_some()).collect();
    let Some(path) = file else {
        let mut options = flags.clone();
        options.plugins.sources = PluginSources { file: None, command_line };
        return Ok((options, None));
    };
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut options: Options = toml::from_str(&text).map_err(|error| ConfigError::syntax(path, &error))?;
    resolve_paths(&mut options, path.parent().unwrap_or(Path::new("")));
    let mut options = merge(&options, flags).map_err(|error| ConfigError::syntax(path, &error))?;
    options.plugins.sources = PluginSources { file: Some(path.to_owned()), command_line };
    Ok((options, Some(path.to_owned())))
}

impl Options {
    /// These settings with every path from the root, for a run that goes on from another folder; without what an operator grants,
    /// which is asked for anew.
    pub fn from_root(&self) -> Self {
        let mut options = self.clone();
        options.output_dir = Some(output_dir(self));
        if let Ok(here) = std::env::current_dir() {
            resolve_paths(&mut options, &here);
        }
        options.plugins.sources = PluginSources::default();
        options.granted = Granted::default();
        options
    }
}

/// `over` wins wherever it has a value.
pub(crate) fn merge(under: &Options, over: &Options) -> Result<Options, toml::de::Error> {
    let table = |options| Table::try_from(options).map_err(serde::de::Error::custom);
    let mut merged = table(under)?;
    overlay(&mut merged, table(over)?);
    Options::deserialize(merged)
}

fn overlay(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => overlay(under, over),
            // A list without a flag of its own is always empty on the command line.
            (Some(_), toml::Value::Array(list)) if list.is_empty() => {}
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

fn resolve_paths(options: &mut Options, base: &Path) {
    let telemetry = &mut options.telemetry;
    let imports = telemetry.import.iter_mut().flatten();
    let folders = options.output_dir.iter_mut().chain(&mut options.compute.cuda_libs);
    let serve = &mut options.serve;
    let tls = serve.tls_cert.iter_mut().chain(&mut serve.tls_key);
    let key = telemetry
        .phoenix_api_key_file
        .iter_mut()
        .chain(&mut serve.token_file)
        .chain(&mut serve.jobs_dir)
        .chain(&mut serve.worker_token_file)
        .chain(tls);
    let key = key.chain(&mut options.synthetic.synthetic_api_key_file);
    let review = options.review.approvals.iter_mut().chain(&mut options.review.people);
    let remote = options.remote.files_mut();
    for path in imports.chain(&mut telemetry.store).chain(key).chain(folders).chain(review).chain(remote) {
        *path = base.join(&*path);
    }
    // A name like `HuggingFaceTB/SmolLM-135M` looks like a path, and stays what it is where no such path exists.
    if let Some(model) = options.base_model.as_mut().filter(|model| base.join(&**model).exists()) {
        *model = base.join(&*model);
    }
    let plugins = &mut options.plugins;
    let agents = options.agents.values_mut().flat_map(|a| [&mut a.extractor, &mut a.formatter, &mut a.policy]);
    for plugin in [&mut plugins.extractor, &mut plugins.formatter, &mut plugins.policy].into_iter().chain(agents) {
        if let Some(text) = plugin.as_mut().filter(|text| matches!(PinnedRef::place(text), PluginRef::File(_))) {
            *text = base.join(&*text).to_string_lossy().into_owned();
        }
    }
}
