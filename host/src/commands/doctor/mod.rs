//! `tunesmith doctor`: what is here, and what to do about what is not.

mod gpu;

use std::path::Path;

use serde::Serialize;
use trainer_cuda::config::ModelConfig;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;
use trainer_cuda::formats::BaseModel;

use super::Answer;
use crate::cli::RunArgs;
use crate::compute::ComputeConfig;
use crate::config::{ConfigError, PhoenixConfig, RunConfig};
use crate::error::HostError;
use crate::phoenix::{Phoenix, Server};
use crate::plugins::{Extractor, Formatter, Limits, PluginEngine, PluginError, PluginKind, PluginPackage, Policy};
use crate::report;
use crate::telemetry::TelemetryStore;
use crate::tenants::Scope;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Runs work without it.
    Note,
    /// Runs fail without it.
    Lack,
}

/// One line of the examination.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    status: Status,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

pub(super) fn run(scope: &Scope, args: RunArgs) -> Result<Answer, HostError> {
    let (options, file) = scope.load(args.config.as_deref(), &args.options)?;
    let compute = ComputeConfig::new(&options.compute, options.training.precision);
    let mut findings = gpu::findings(&compute, Path::new("/"));
    findings.extend([device(&compute), processor(), memory(), plugin_runtime()]);
    let configuration = file.map_or_else(|| "no file, defaults".to_owned(), |file| file.display().to_string());
    match RunConfig::new(options) {
        Ok(config) => {
            findings.push(ok("configuration", configuration));
            findings.extend([plugins(&config), model(&config), store(&config)]);
            findings.extend(config.telemetry.phoenix.as_ref().map(phoenix));
            findings.push(output_dir(&config));
        }
        Err(error @ ConfigError::Missing { .. }) => {
            let remedy = format!("to have the model, the plugins and the store of a run looked at: {error}");
            findings.push(note("configuration", configuration, remedy));
        }
        Err(error) => findings.push(lack("configuration", configuration, error.to_string())),
    }
    let lacks = findings.iter().filter(|finding| finding.status == Status::Lack).count();
    let mut table = report::table();
    for finding in &findings {
        let mark = match finding.status {
            Status::Ok => "ok",
            Status::Note => "note",
            Status::Lack => "LACK",
        };
        table.add_row([mark, finding.what, &finding.found]);
        if let Some(remedy) = &finding.remedy {
            table.add_row(["", "", &format!("-> {remedy}")]);
        }
    }
    let end = match lacks {
        0 => "nothing that was looked at is lacking".to_owned(),
        n => format!("lacking: {n}; a run needs all of them"),
    };
    let exit_code = u8::from(lacks > 0);
    Ok(Answer { exit_code, ..Answer::new(format!("{table}\n\n{end}"), &findings) })
}

fn ok(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { what, status: Status::Ok, found: found.into(), remedy: None }
}

fn note(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { what, status: Status::Note, found: found.into(), remedy: Some(remedy.into()) }
}

fn lack(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { what, status: Status::Lack, found: found.into(), remedy: Some(remedy.into()) }
}

/// What a run would take.
fn device(compute: &ComputeConfig) -> Finding {
    match compute.open() {
        Ok((device, None)) => ok("device", device.describe()),
        Ok((device, Some(why))) => ok("device", format!("{}: {why}", device.describe())),
        Err(error) => lack("device", format!("`{}` can't be used", compute.device), error.describe()),
    }
}

fn processor() -> Finding {
    let device = Cpu::new(None).describe();
    match std::thread::available_parallelism() {
        Ok(threads) if threads.get() > 1 => ok("processor", device),
        _ => note("processor", device, "training uses every core it may: allow this process more than one"),
    }
}

fn memory() -> Finding {
    match crate::memory::available() {
        None => note("memory", "unknown", "`/proc/meminfo` cannot be read"),
        Some(bytes) if bytes < 1 << 30 => {
            note("memory", format!("{} MiB free", bytes >> 20), "free some: a small model wants 1 GiB")
        }
        Some(bytes) => ok("memory", format!("{} MiB free", bytes >> 20)),
    }
}

fn plugin_runtime() -> Finding {
    let load_all = || -> Result<String, PluginError> {
        let engine = PluginEngine::new(Limits::default())?;
        let packages = PluginPackage::all_built_in()?;
        for package in &packages {
            match package.manifest.kind {
                PluginKind::Extractor => drop(Extractor::load(&engine, package)?),
                PluginKind::Formatter => drop(Formatter::load(&engine, package)?),
                PluginKind::Policy => drop(Policy::load(&engine, package)?),
            }
        }
        Ok(format!("{} built in; {}", packages.len(), engine.describe()))
    };
    load_all().map_or_else(|error| lack("plugins", "do not load", error.to_string()), |found| ok("plugins", found))
}

fn plugins(config: &RunConfig) -> Finding {
    match crate::pipeline::RunPlugins::load(config) {
        Ok(plugins) => {
            let names = plugins.identities().map(|identity| format!("{} {}", identity.name, identity.version));
            ok("this run's plugins", names.join(", "))
        }
        Err(error) => lack("this run's plugins", "do not load", error.to_string()),
    }
}

fn model(config: &RunConfig) -> Finding {
    match BaseModel::open(&config.base_model) {
        Ok(base) => {
            let (layers, width) = match &base.config {
                ModelConfig::Decoder(config) => (config.num_hidden_layers, config.hidden_size),
                ModelConfig::Encoder(config) => (config.num_hidden_layers, config.hidden_size),
            };
            let (architecture, vocab) = (base.config.architecture(), base.config.vocab_size());
            let path = config.base_model.display();
            let found = format!("{path}: {architecture}, {layers} layers of {width}, vocabulary {vocab}");
            ok("base model", found)
        }
        Err(error) => lack("base model", "does not open", HostError::from(error).describe()),
    }
}

fn store(config: &RunConfig) -> Finding {
    let path = &config.telemetry.store;
    let sources = config.telemetry.imports.len() + usize::from(config.telemetry.phoenix.is_some());
    if !path.exists() && sources > 0 {
        return ok("telemetry store", format!("{}: will be made from {sources} sources", path.display()));
    }
    match TelemetryStore::open(path).and_then(|store| store.projects()) {
        Ok(projects) => {
            let projects: Vec<_> =
                projects.iter().map(|project| format!("{} ({} spans)", project.name, project.spans)).collect();
            ok("telemetry store", format!("{}: {}", path.display(), projects.join(", ")))
        }
        Err(error) => lack("telemetry store", "does not open", HostError::from(error).describe()),
    }
}

fn phoenix(config: &PhoenixConfig) -> Finding {
    let server = Server::new(&config.url, config.api_key_file.as_deref(), config.key_of_environment);
    match server.and_then(|server| Phoenix::look(server, &config.project)) {
        Ok(()) => ok("Phoenix", format!("{} has `{}`", config.url, config.project)),
        Err(error) => lack("Phoenix", "can't be read", error.to_string()),
    }
}

fn output_dir(config: &RunConfig) -> Finding {
    let path = &config.output_dir;
    let existing = path.ancestors().find(|folder| folder.is_dir()).filter(|folder| !folder.as_os_str().is_empty());
    match tempfile::tempfile_in(existing.unwrap_or(Path::new("."))) {
        Ok(_) => ok("output folder", path.display().to_string()),
        Err(error) => lack(
            "output folder",
            format!("{} cannot be written: {error}", path.display()),
            "name another with `--output-dir`",
        ),
    }
}
