//! Configuration: flags over environment over `tunesmith.toml` over defaults, checked once, here.

mod agents;
mod error;
mod granted;
mod load;
mod options;
mod redaction;
mod remote;
mod review;
mod sections;
mod serve;
pub mod size;
mod synthetic;

use std::path::PathBuf;

use serde::Serialize;
use trainer_cuda::config::TrainConfig;
use trainer_cuda::encode::EncodeConfig;

pub use error::ConfigError;
pub use granted::Granted;
pub(crate) use load::merge;
pub use load::{DEFAULT_FILE, default_file, load};
pub use options::{
    AgentOptions, Annotator, Backend, ComputeOptions, DatasetOptions, Distance, DpoOptions, ExtractionOptions,
    LoraFallback, LoraOptions, LossOn, LrSchedule, Match, Method, Modality, ModelType, OnFailure, Options, OverLength,
    PatternOptions, PluginOptions, PluginSettings, PluginSources, Precision, RedactionOptions, ReviewOptions, Scalar,
    ScoreRule, TelemetryOptions, TrainingOptions, TripletOptions,
};
pub use remote::{
    AzureMlOptions, KubernetesOptions, Provider, RayOptions, RemoteConfig, RemoteOptions, SagemakerOptions,
    SlurmOptions, TolerationOptions, WorkerOptions,
};
pub use review::ReviewConfig;
pub use serve::{ServeConfig, ServeOptions, TlsFiles};
pub use synthetic::{EndpointConfig, GeneratorChoice, SyntheticConfig, SyntheticOptions};

use crate::compute::ComputeConfig;
use crate::dataset::{NearDuplicateConfig, RedactionConfig};
use crate::plugins::bindings::extraction::ExtractionConfig;
use crate::plugins::bindings::selection_policy::PolicyConfig;
use crate::plugins::{Choice, LimitSettings, Limits, PluginGrants, PluginKind, Resolution};

/// A run's configuration: every default filled in, every value checked.
#[derive(Debug, Clone, Serialize)]
pub struct RunConfig {
    /// Whose data this is.
    pub tenant_id: String,
    /// The telemetry project; none means the only one that the store holds.
    pub project: Option<String>,
    /// The agent to train.
    pub agent_type: String,
    /// Model folder or `.gguf` file.
    pub base_model: PathBuf,
    /// What kind of model that is.
    pub model_type: ModelType,
    /// Of an embedding model's documents.
    pub modality: Option<Modality>,
    /// `auto` asks the policy.
    pub method: Method,
    /// Whether missing data may be generated.
    pub generate_synthetic: bool,
    /// Folder of the run folders.
    pub output_dir: PathBuf,
    /// Where spans come from.
    pub telemetry: TelemetryConfig,
    /// How records become tokens.
    pub encoding: EncodeConfig,
    /// How the optimiser runs, and what it trains. Its seed is also the split's.
    pub training: TrainConfig,
    /// What trains.
    pub compute: ComputeConfig,
    /// What training may use of this machine, and what happens when it ends before its time.
    pub execution: ExecutionConfig,
    /// What no plugin sees.
    pub redaction: RedactionConfig,
    /// What becomes of examples that are nearly the same.
    pub dataset: NearDuplicateConfig,
    /// Who decides what of generated data may train, and where.
    pub review: ReviewConfig,
    /// What generates examples, and what that may cost.
    pub synthetic: SyntheticConfig,
    /// What the extractor is told.
    pub extraction: ExtractionConfig,
    /// What the policy is told.
    pub policy: PolicyConfig,
    /// Who extracts, formats and decides.
    pub plugins: PluginsConfig,
    /// Who trains, where it isn't this machine.
    pub remote: Option<RemoteConfig>,
    /// What the operator allows.
    pub granted: Granted,
}

/// The part of a run's configuration that decides what it takes of a machine.
#[derive(Debug, Clone)]
pub struct PlanConfig {
    /// Model folder or `.gguf` file.
    pub base_model: PathBuf,
    /// What is trained; never `auto`.
    pub method: Method,
    /// How records become tokens.
    pub encoding: EncodeConfig,
    /// How the optimiser runs, and what it trains.
    pub training: TrainConfig,
    /// What would train.
    pub compute: ComputeConfig,
    /// What training may use of this machine.
    pub execution: ExecutionConfig,
}

impl PlanConfig {
    /// Fills in the defaults and checks the values; where the policy would choose the method, SFT stands for it.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn new(options: &Options) -> Result<Self, ConfigError> {
        let model_type = sections::model_type(options)?;
        let method = match (options.method, model_type) {
            (Some(Method::Auto) | None, ModelType::Llm) => Method::Sft,
            (Some(Method::Auto) | None, ModelType::Embedding) => Method::Triplet,
            (Some(method), _) => method,
        };
        Ok(Self {
            base_model: base_model(options, model_type),
            method,
            encoding: sections::encoding(&options.training),
            training: sections::training(options)?,
            compute: ComputeConfig::new(&options.compute, options.training.precision),
            execution: sections::execution(options)?,
        })
    }
}

/// Where spans come from.
#[derive(Debug, Clone, Serialize)]
pub struct TelemetryConfig {
    /// The SQLite file.
    pub store: PathBuf,
    /// Exports that are imported before the run.
    pub imports: Vec<PathBuf>,
    /// The server that is read before the run.
    pub phoenix: Option<PhoenixConfig>,
}

/// A project of a Phoenix server.
#[derive(Debug, Clone, Serialize)]
pub struct PhoenixConfig {
    /// The server's address.
    pub url: String,
    /// Where its key is.
    pub api_key_file: Option<PathBuf>,
    /// The project, which has the same name in the store.
    pub project: String,
    /// Whether the spans that a run used are annotated there.
    pub write_back: bool,
    /// Whether PHOENIX_API_KEY counts where no file is named.
    #[serde(skip)]
    pub key_of_environment: bool,
}

impl PhoenixConfig {
    /// What `options` say; `None` where they name no server.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] where a server is named, and no project.
    pub fn new(options: &Options) -> Result<Option<Self>, ConfigError> {
        let Some(url) = options.telemetry.phoenix_url.clone() else { return Ok(None) };
        let remedy = "name the project of Phoenix with `--project`".to_owned();
        let project = options.project.clone().ok_or(ConfigError::Missing { key: "project", remedy })?;
        let TelemetryOptions { phoenix_api_key_file, phoenix_write_back, .. } = &options.telemetry;
        let (api_key_file, write_back) = (phoenix_api_key_file.clone(), phoenix_write_back.unwrap_or(false));
        let key_of_environment = options.granted.secrets_of_environment();
        Ok(Some(Self { url, api_key_file, project, write_back, key_of_environment }))
    }

    /// As [`PhoenixConfig::new`], where a server has to be named.
    ///
    /// # Errors
    /// [`ConfigError::Missing`].
    pub fn required(options: &Options) -> Result<Self, ConfigError> {
        Self::new(options)?.ok_or_else(|| ConfigError::Missing {
            key: "telemetry.phoenix_url",
            remedy: "name the server with `--phoenix-url`, such as `http://127.0.0.1:6006`".to_owned(),
        })
    }
}

/// What training may use of this machine, and what happens where it can't go on. None of it changes a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ExecutionConfig {
    /// Bytes that the memory plan may come to; none means what is available.
    pub memory_limit: Option<u64>,
    /// Optimiser steps between checkpoints.
    pub checkpoint_steps: usize,
    /// Where no module of the model is a LoRA target.
    pub lora_fallback: LoraFallback,
}

/// Who extracts, formats and decides, and what a call may use.
#[derive(Debug, Clone, Serialize)]
pub struct PluginsConfig {
    /// The extractor.
    pub extractor: Choice,
    /// The formatter.
    pub formatter: Choice,
    /// The policy.
    pub policy: Choice,
    /// The formatter's settings; the extractor's and the policy's lie in their own configurations.
    pub formatter_settings: Vec<(String, String)>,
    /// Caps on a call of a plugin that asks for none of its own.
    pub limits: Limits,
    /// Those of them that are configured: a plugin's own wishes do not change these.
    #[serde(skip)]
    pub set_limits: LimitSettings,
    /// What an operator grants the tenant's plugins; everything, where nobody is above the user.
    pub grants: PluginGrants,
    /// Where the extractor or the formatter fails on a batch.
    pub on_failure: OnFailure,
}

impl RunConfig {
    /// Fills in the defaults and checks every value.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] and [`ConfigError::Invalid`].
    pub fn new(options: Options) -> Result<Self, ConfigError> {
        let tenant_id = tenant_id(&options)?;
        let model_type = sections::model_type(&options)?;
        let of_embeddings = (model_type == ModelType::Embedding).then(|| agents::SEARCH.to_owned());
        let agent_type = options.agent_type.clone().or(of_embeddings).ok_or_else(|| ConfigError::Missing {
            key: "agent_type",
            remedy: "name the agent to train with `--agent-type`, or in the configuration: `routing`, \
                     `profile_selection`, `entity_extraction`, or one of your own under `[agents]`"
                .to_owned(),
        })?;
        let agent_type = folder_name("agent_type", agent_type)?;
        let agent = sections::agent(&options, &agent_type)?;
        Ok(Self {
            project: options.project.clone(),
            base_model: base_model(&options, model_type),
            model_type,
            modality: options.modality,
            method: options.method.unwrap_or(Method::Auto),
            generate_synthetic: options.generate_synthetic.unwrap_or(true),
            output_dir: output_dir(&options),
            telemetry: TelemetryConfig {
                store: store_path(&options)?,
                imports: options.telemetry.import.clone().unwrap_or_default(),
                phoenix: PhoenixConfig::new(&options)?,
            },
            encoding: sections::encoding(&options.training),
            training: sections::training(&options)?,
            compute: ComputeConfig::new(&options.compute, options.training.precision),
            execution: sections::execution(&options)?,
            dataset: sections::dataset(&options.dataset)?,
            review: ReviewConfig::new(&options)?,
            synthetic: SyntheticConfig::new(&options)?,
            redaction: redaction::config(&options.redaction, &agent)?,
            extraction: sections::extraction(&options, model_type, &agent_type, &agent)?,
            policy: PolicyConfig {
                min_sft_examples: options.min_sft_examples.unwrap_or(50),
                min_dpo_pairs: options.min_dpo_pairs.unwrap_or(20),
                min_triplets: options.min_triplets.unwrap_or(100),
                settings: sections::settings(&options.plugins.settings.policy),
            },
            remote: match options.backend {
                Some(Backend::Remote) => Some(RemoteConfig::new(&options)?),
                Some(Backend::Local) | None => None,
            },
            plugins: sections::plugins(&options.plugins, &agent_type, &agent, options.granted.plugins.clone())?,
            tenant_id,
            agent_type,
            granted: options.granted,
        })
    }
}

impl RunConfig {
    /// The row of the resolution table for the plugin of `kind`.
    pub fn resolution(&self, kind: PluginKind) -> Resolution {
        let plugins = &self.plugins;
        let (choice, settings) = match kind {
            PluginKind::Extractor => (&plugins.extractor, &self.extraction.settings),
            PluginKind::Formatter => (&plugins.formatter, &plugins.formatter_settings),
            PluginKind::Policy => (&plugins.policy, &self.policy.settings),
        };
        Resolution {
            kind,
            choice: choice.clone(),
            tenant: self.tenant_id.clone(),
            agent_type: Some(self.agent_type.clone()),
            settings: settings.iter().map(|(key, _)| key.clone()).collect(),
            limits: plugins.set_limits,
            grants: plugins.grants.clone(),
        }
    }
}

/// The telemetry store of `options`: `telemetry.store`, or the tenant's own file under the user's data folder, so that
/// one tenant's run never opens another tenant's store by default.
///
/// # Errors
/// [`ConfigError::Missing`] where neither the store nor a home folder is known.
pub fn store_path(options: &Options) -> Result<PathBuf, ConfigError> {
    if let Some(store) = &options.telemetry.store {
        return Ok(store.clone());
    }
    let data = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    let data = data.ok_or_else(|| ConfigError::Missing {
        key: "telemetry.store",
        remedy: "no home folder is known either: name the store with `--store`".to_owned(),
    })?;
    Ok(data.join("tunesmith").join(tenant_id(options)?).join("telemetry.sqlite"))
}

/// The folder of run folders.
pub fn output_dir(options: &Options) -> PathBuf {
    options.output_dir.clone().unwrap_or_else(|| "outputs/adapters".into())
}

fn base_model(options: &Options, model_type: ModelType) -> PathBuf {
    options.base_model.clone().unwrap_or_else(|| match model_type {
        ModelType::Llm => "HuggingFaceTB/SmolLM-135M".into(),
        ModelType::Embedding => "jinaai/jina-embeddings-v3".into(),
    })
}

/// Whose data this is: a name that a folder can have.
///
/// # Errors
/// [`ConfigError::Invalid`].
pub fn tenant_id(options: &Options) -> Result<String, ConfigError> {
    folder_name("tenant_id", options.tenant_id.clone().unwrap_or_else(|| "default".to_owned()))
}

/// Both become names of folders.
fn folder_name(key: &'static str, name: String) -> Result<String, ConfigError> {
    if is_folder_name(&name) {
        return Ok(name);
    }
    let want = "use letters, digits, `_`, `-` and `.` only, and no leading `.`: it names a folder".to_owned();
    Err(ConfigError::Invalid { key, value: format!("{name:?}"), want })
}

/// True for a name that is a folder of its own wherever it is put.
pub fn is_folder_name(name: &str) -> bool {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    plain && !name.is_empty() && !name.starts_with('.')
}

#[cfg(test)]
mod tests;
