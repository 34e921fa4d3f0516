//! Each table of the configuration, with its defaults filled in and its values checked.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use trainer_cuda::config::{self as trainer, DpoConfig, LoraConfig, TargetModules, TrainConfig, TripletConfig};
use trainer_cuda::encode::{self, EncodeConfig};
use trainer_cuda::schedule::Schedule;

use super::options::{
    AgentOptions, Annotator, DatasetOptions, Distance, LoraFallback, LoraOptions, LossOn, LrSchedule, Match, Method,
    ModelType, OnFailure, Options, OverLength, PluginOptions, Precision, Scalar, ScoreRule, TrainingOptions,
};
use super::{ConfigError, ExecutionConfig, PluginsConfig, agents, size};
use crate::dataset::{NearDuplicateConfig, NearDuplicates};
use crate::plugins::bindings::extraction::{self, ExtractionConfig, VerdictRules};
use crate::plugins::bindings::types::{self, MatchRule};
use crate::plugins::{Candidates, LimitSettings, Limits, PluginGrants, PluginKind};

/// What is named, or else what the method trains; a method trains one kind only.
pub(super) fn model_type(options: &Options) -> Result<ModelType, ConfigError> {
    let trained = match options.method {
        Some(Method::Sft | Method::Dpo) => Some(ModelType::Llm),
        Some(Method::Triplet) => Some(ModelType::Embedding),
        Some(Method::Auto) | None => None,
    };
    match (options.model_type, trained) {
        (Some(ModelType::Embedding), Some(ModelType::Llm)) => Err(ConfigError::Invalid {
            key: "model_type",
            value: "\"embedding\"".to_owned(),
            want: "an embedding model is trained by `method = \"triplet\"`, or \"auto\"".to_owned(),
        }),
        (Some(ModelType::Llm), Some(ModelType::Embedding)) => Err(ConfigError::Invalid {
            key: "model_type",
            value: "\"llm\"".to_owned(),
            want: "`method = \"triplet\"` trains embedding models; use \"sft\", \"dpo\" or \"auto\"".to_owned(),
        }),
        (named, trained) => Ok(named.or(trained).unwrap_or(ModelType::Llm)),
    }
}

/// The built-in rules of the agent type with those of the configuration over them.
pub(super) fn agent(options: &Options, agent_type: &str) -> Result<AgentOptions, ConfigError> {
    let own = options.agents.get(agent_type).cloned();
    let built_in = agents::built_in(agent_type);
    if own.is_none() && built_in.is_none() {
        let want = format!(
            "known are `routing`, `profile_selection`, `entity_extraction` and `search`; describe others in \
             `[agents.{agent_type}]`"
        );
        return Err(ConfigError::Invalid { key: "agent_type", value: format!("{agent_type:?}"), want });
    }
    let (own, built_in) = (own.unwrap_or_default(), built_in.unwrap_or_default());
    Ok(AgentOptions {
        instruction: own.instruction.or(built_in.instruction),
        matches: own.matches.or(built_in.matches),
        ..own
    })
}

pub(super) fn extraction(
    options: &Options,
    model_type: ModelType,
    agent_type: &str,
    agent: &AgentOptions,
) -> Result<ExtractionConfig, ConfigError> {
    let missing = |key, what| ConfigError::Missing { key, remedy: format!("give {what} in `[agents.{agent_type}]`") };
    let rules = &options.extraction;
    let texts = |given: &Option<Vec<String>>, default: &[&str]| {
        given.clone().unwrap_or_else(|| default.iter().map(|text| (*text).to_owned()).collect())
    };
    let match_rules: Vec<_> = agent.matches.iter().flatten().map(match_rule).collect();
    if match_rules.is_empty() {
        return Err(missing("match", "the rules that tell which spans are this agent's"));
    }
    let mut settings = settings(&options.plugins.settings.extractor);
    if let Some(modality) = options.modality.filter(|_| model_type == ModelType::Embedding)
        && !settings.iter().any(|(key, _)| key == "modality")
    {
        settings.push(("modality".to_owned(), modality.name().to_owned()));
    }
    let kinds = rules.annotator_kinds.clone().unwrap_or_else(|| vec![Annotator::Human]);
    Ok(ExtractionConfig {
        agent_type: agent_type.to_owned(),
        model_type: match model_type {
            ModelType::Llm => types::ModelType::Llm,
            ModelType::Embedding => types::ModelType::Embedding,
        },
        instruction: agent.instruction.clone().ok_or_else(|| missing("instruction", "the text of every example"))?,
        match_rules,
        own_span_attributes: texts(&rules.own_span_attributes, &agents::OWN_SPAN_ATTRIBUTES),
        verdicts: VerdictRules {
            annotation_names: texts(&rules.annotation_names, &agents::ANNOTATION_NAMES),
            annotator_kinds: kinds.into_iter().map(Into::into).collect(),
            approved_labels: texts(&rules.approved_labels, &agents::APPROVED_LABELS),
            rejected_labels: texts(&rules.rejected_labels, &agents::REJECTED_LABELS),
            score_rules: rules.score_rules.iter().cloned().map(score_rule).collect(),
            correction_keys: texts(&rules.correction_keys, &agents::CORRECTION_KEYS),
            explanation_correction_labels: texts(&rules.explanation_correction_labels, &[]),
        },
        settings,
    })
}

fn match_rule(rule: &Match) -> MatchRule {
    match rule.clone() {
        Match::Name { name } => MatchRule::NameExact(name),
        Match::NameSuffix { name_suffix } => MatchRule::NameSuffix(name_suffix),
        Match::Attribute { attribute, equals } => MatchRule::AttributeEquals((attribute, equals)),
    }
}

impl From<Annotator> for types::AnnotatorKind {
    fn from(annotator: Annotator) -> Self {
        match annotator {
            Annotator::Human => Self::Human,
            Annotator::Llm => Self::Llm,
            Annotator::Code => Self::Code,
        }
    }
}

fn score_rule(rule: ScoreRule) -> extraction::ScoreRule {
    extraction::ScoreRule {
        annotation_name: rule.annotation_name,
        approve_at_least: rule.approve_at_least,
        reject_below: rule.reject_below,
    }
}

pub(super) fn encoding(own: &TrainingOptions) -> EncodeConfig {
    let default = EncodeConfig::default();
    EncodeConfig {
        max_length: own.max_length.map_or(default.max_length, size_of),
        loss_on: match own.loss_on {
            Some(LossOn::Auto) => encode::LossOn::Auto,
            Some(LossOn::Completion) => encode::LossOn::Completion,
            Some(LossOn::Whole) => encode::LossOn::Whole,
            None => default.loss_on,
        },
        over_length: match own.over_length {
            Some(OverLength::Drop) => encode::OverLength::Drop,
            Some(OverLength::Truncate) => encode::OverLength::Truncate,
            None => default.over_length,
        },
    }
}

pub(super) fn training(options: &Options) -> Result<TrainConfig, ConfigError> {
    let (own, default) = (&options.training, TrainConfig::default());
    let ratio = "give a ratio from 0 to below 1";
    let config = TrainConfig {
        epochs: options.epochs.map_or(default.epochs, size_of),
        batch_size: options.batch_size.map_or(default.batch_size, size_of),
        gradient_accumulation_steps: own
            .gradient_accumulation_steps
            .map_or(default.gradient_accumulation_steps, size_of),
        learning_rate: options.learning_rate.unwrap_or(default.learning_rate),
        lr_scheduler: match own.lr_scheduler {
            Some(LrSchedule::Linear) => Schedule::Linear,
            Some(LrSchedule::Cosine) => Schedule::Cosine,
            Some(LrSchedule::Constant) => Schedule::Constant,
            None => default.lr_scheduler,
        },
        warmup_ratio: own.warmup_ratio.unwrap_or(default.warmup_ratio),
        weight_decay: own.weight_decay.unwrap_or(default.weight_decay),
        max_grad_norm: own.max_grad_norm.unwrap_or(default.max_grad_norm),
        seed: options.seed.unwrap_or(default.seed),
        use_lora: options.use_lora.unwrap_or(default.use_lora),
        lora: lora(&options.lora)?,
        dpo: DpoConfig { beta: options.dpo.beta.unwrap_or(default.dpo.beta) },
        triplet: TripletConfig {
            distance: match options.triplet.distance {
                Some(Distance::Cosine) => trainer::Distance::Cosine,
                Some(Distance::Euclidean) => trainer::Distance::Euclidean,
                None => default.triplet.distance,
            },
            margin: options.triplet.margin.unwrap_or(default.triplet.margin),
        },
        eval_steps: own.eval_steps.map(size_of).or(default.eval_steps),
        precision: own.precision.map_or(default.precision, Into::into),
        recompute: own.recompute.unwrap_or(default.recompute),
        early_stopping_patience: own.early_stopping_patience.map(size_of).or(default.early_stopping_patience),
        world_size: default.world_size, // a job's processes know of each other where they run
    };
    check("learning_rate", config.learning_rate, config.learning_rate > 0.0, "give a positive number")?;
    check("training.warmup_ratio", config.warmup_ratio, (0.0..1.0).contains(&config.warmup_ratio), ratio)?;
    check("training.weight_decay", config.weight_decay.into(), config.weight_decay >= 0.0, "give 0 or more")?;
    check("training.max_grad_norm", config.max_grad_norm.into(), config.max_grad_norm >= 0.0, "give 0 or more")?;
    check("dpo.beta", config.dpo.beta, config.dpo.beta > 0.0, "give a positive number")?;
    let margin = config.triplet.margin;
    check("triplet.margin", margin.into(), margin > 0.0, "give a positive number")?;
    Ok(config)
}

impl From<Precision> for trainer::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
            Precision::Quantized => Self::Quantized,
        }
    }
}

pub(super) fn execution(options: &Options) -> Result<ExecutionConfig, ConfigError> {
    let own = &options.training;
    let memory_limit = own.memory_limit.as_ref().map(|text| {
        size::parse(text).ok_or_else(|| ConfigError::Invalid {
            key: "training.memory_limit",
            value: format!("{text:?}"),
            want: "give a size such as `8GiB` or `512MiB`".to_owned(),
        })
    });
    Ok(ExecutionConfig {
        memory_limit: memory_limit.transpose()?,
        checkpoint_steps: own.checkpoint_steps.map_or(50, size_of),
        lora_fallback: options.lora.fallback.unwrap_or(LoraFallback::Error),
    })
}

fn lora(own: &LoraOptions) -> Result<LoraConfig, ConfigError> {
    let default = LoraConfig::default();
    let alpha = own.alpha.unwrap_or(default.alpha);
    check("lora.alpha", alpha.into(), alpha > 0.0, "give a positive number")?;
    let dropout = own.dropout.unwrap_or(default.dropout);
    check("lora.dropout", dropout.into(), (0.0..1.0).contains(&dropout), "give a ratio from 0 to below 1")?;
    Ok(LoraConfig {
        rank: own.rank.map_or(default.rank, size_of),
        alpha,
        dropout,
        target_modules: match own.target_modules.as_deref() {
            None => default.target_modules,
            Some([name]) if name == "all-linear" => TargetModules::Named(name.clone()),
            Some([]) => {
                let want = "name modules, or `all-linear`; `use_lora = false` trains every weight".to_owned();
                return Err(ConfigError::Invalid { key: "lora.target_modules", value: "empty".to_owned(), want });
            }
            Some(names) => TargetModules::List(names.to_vec()),
        },
        use_rslora: own.use_rslora.unwrap_or(default.use_rslora),
    })
}

pub(super) fn dataset(own: &DatasetOptions) -> Result<NearDuplicateConfig, ConfigError> {
    let near_duplicate_threshold = own.near_duplicate_threshold.unwrap_or(0.85);
    let sensible = (0.8..=1.0).contains(&near_duplicate_threshold);
    let want = "give an overlap from 0.8 to 1: below, other questions are taken for the same";
    check("dataset.near_duplicate_threshold", near_duplicate_threshold, sensible, want)?;
    let near_duplicates = own.near_duplicates.unwrap_or(NearDuplicates::Keep);
    Ok(NearDuplicateConfig { near_duplicates, near_duplicate_threshold })
}

pub(super) fn plugins(
    own: &PluginOptions,
    agent_type: &str,
    agent: &AgentOptions,
    grants: PluginGrants,
) -> Result<PluginsConfig, ConfigError> {
    let choose = |kind: PluginKind| {
        let of_all = own.of_kind(kind);
        let from_command_line = own.sources.command_line.contains(&kind);
        let candidates = Candidates {
            kind,
            agent_type,
            command_line: of_all.filter(|_| from_command_line),
            of_agent: agent.of_kind(kind),
            of_all: of_all.filter(|_| !from_command_line),
            file: own.sources.file.as_deref(),
        };
        candidates.choose().map_err(|want| ConfigError::Pin { key: kind.name(), want })
    };
    let set = limits(own)?;
    Ok(PluginsConfig {
        extractor: choose(PluginKind::Extractor)?,
        formatter: choose(PluginKind::Formatter)?,
        policy: choose(PluginKind::Policy)?,
        formatter_settings: settings(&own.settings.formatter),
        limits: set.over(Limits::default()),
        set_limits: set,
        grants,
        on_failure: own.on_failure.unwrap_or(OnFailure::Fail),
    })
}

fn limits(own: &PluginOptions) -> Result<LimitSettings, ConfigError> {
    if let Some(kib) = own.stack_kib {
        // A thread has 2 MiB, and the host's own frames lie below the plugin's.
        let sensible = (64..=1024).contains(&kib.get());
        check("plugins.stack_kib", kib.get().into(), sensible, "give a size from 64 to 1024")?;
    }
    Ok(LimitSettings {
        deadline_ms: own.deadline_ms,
        fuel: own.fuel,
        memory_mib: own.memory_mib,
        table_elements: own.table_elements,
        output_mib: own.output_mib,
        records_per_span: own.records_per_span,
        log_kib: own.log_kib,
        component_mib: own.component_mib,
        stack_kib: own.stack_kib,
    })
}

pub(super) fn settings(table: &BTreeMap<String, Scalar>) -> Vec<(String, String)> {
    table.iter().map(|(key, value)| (key.clone(), value.to_string())).collect()
}

fn size_of(value: NonZeroU32) -> usize {
    value.get() as usize
}

fn check(key: &'static str, value: f64, sensible: bool, want: &str) -> Result<(), ConfigError> {
    if sensible && value.is_finite() {
        return Ok(());
    }
    Err(ConfigError::Invalid { key, value: value.to_string(), want: want.to_owned() })
}
