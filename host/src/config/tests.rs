use std::path::Path;

use clap::Parser;

use super::*;
use crate::compute::DeviceName;
use crate::plugins::bindings::types::MatchRule;
use crate::plugins::{Decided, PluginRef};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

fn flags(args: &[&str]) -> Options {
    Flags::try_parse_from(std::iter::once(&"tunesmith").chain(args)).unwrap().options
}

/// Loads a file with this text, under these flags.
fn load_text(text: &str, args: &[&str]) -> (tempfile::TempDir, Result<Options, ConfigError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tunesmith.toml");
    std::fs::write(&path, text).unwrap();
    let options = load(Some(&path), &flags(args)).map(|(options, _)| options);
    (dir, options)
}

fn run_config(text: &str, args: &[&str]) -> Result<RunConfig, ConfigError> {
    load_text(text, args).1.and_then(RunConfig::new)
}

#[test]
fn an_unknown_key_names_file_line_and_nearest_key() {
    let (dir, error) = load_text("agent_type = \"routing\"\nepoch = 3\n", &[]);
    let error = error.unwrap_err().to_string();
    let file = dir.path().join("tunesmith.toml");
    assert!(error.starts_with(&format!("`{}`: TOML parse error at line 2, column 1", file.display())), "{error}");
    assert!(error.contains("unknown field `epoch`"), "{error}");
    assert!(error.ends_with("did you mean `epochs`?"), "{error}");
}

#[test]
fn an_unknown_key_of_a_nested_table_is_an_error_too() {
    for text in ["[training]\nwarmup = 1", "[plugins.settings]\nx = 1", "[agents.a]\ninstructions = \"x\""] {
        let error = load_text(text, &[]).1.unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("unknown field"), "{text}: {error}");
    }
}

#[test]
fn defaults_are_those_of_the_reference() {
    let config = run_config("", &["--agent-type", "routing"]).unwrap();
    assert_eq!(config.base_model, Path::new("HuggingFaceTB/SmolLM-135M"));
    assert_eq!(config.output_dir, Path::new("outputs/adapters"));
    let PolicyConfig { min_sft_examples, min_dpo_pairs, min_triplets, .. } = config.policy;
    assert_eq!((min_sft_examples, min_dpo_pairs, min_triplets), (50, 20, 100));
    let training = &config.training;
    assert_eq!((training.epochs, training.batch_size, training.learning_rate), (3, 4, 2e-4));
    assert_eq!((training.lora.rank, training.lora.alpha, training.use_lora), (8, 16.0, true));
    assert_eq!((training.dpo.beta, training.triplet.margin), (0.1, 0.5));
    assert_eq!((training.eval_steps, training.early_stopping_patience), (None, None));
    let ExecutionConfig { memory_limit, checkpoint_steps, lora_fallback } = config.execution;
    assert_eq!((memory_limit, checkpoint_steps, lora_fallback), (None, 50, LoraFallback::Error));
    assert_eq!((config.compute.device, config.compute.threads), (DeviceName::Auto, None));
    assert_eq!(config.extraction.instruction, "Route the following query to the appropriate agent");
    assert_eq!(config.plugins.formatter.plugin.plugin, PluginRef::BuiltIn("alpaca-formatter".into()));
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let text = "agent_type = \"routing\"\nepochs = 5\nbatch_size = 8\n[lora]\nrank = 4\nalpha = 4\n";
    let config = run_config(text, &["--epochs", "7", "--lora-rank", "16"]).unwrap();
    assert_eq!((config.training.epochs, config.training.batch_size), (7, 8));
    let lora = config.training.lora;
    assert_eq!((lora.rank, lora.alpha), (16, 4.0));
}

#[test]
fn the_environment_wins_over_the_file_and_flags_over_the_environment() {
    // SAFETY: no other test reads this variable while it is set: only this one gives no `--max-grad-norm`
    // and reads the value, and the name is its own.
    unsafe { std::env::set_var("TUNESMITH_MAX_GRAD_NORM", "0.25") };
    let norm = |args: &[&str]| {
        run_config("agent_type = \"routing\"\n[training]\nmax_grad_norm = 3.0", args).unwrap().training.max_grad_norm
    };
    let (environment, flag) = (norm(&[]), norm(&["--max-grad-norm", "9"]));
    // SAFETY: as above.
    unsafe { std::env::remove_var("TUNESMITH_MAX_GRAD_NORM") };
    assert_eq!((environment, flag), (0.25, 9.0));
}

#[test]
fn paths_in_a_file_are_relative_to_the_file() {
    let text = "agent_type = \"routing\"\noutput_dir = \"out\"\n[telemetry]\nstore = \"t.sqlite\"\nimport = [\"a.jsonl\"]\n\
                [plugins]\nformatter = \"mine.wasm\"\npolicy = \"threshold-policy\"\n";
    let (dir, options) = load_text(text, &["--policy", "here/p.wasm"]);
    let config = RunConfig::new(options.unwrap()).unwrap();
    assert_eq!(config.output_dir, dir.path().join("out"));
    assert_eq!(config.telemetry.store, dir.path().join("t.sqlite"));
    assert_eq!(config.telemetry.imports, [dir.path().join("a.jsonl")]);
    assert_eq!(config.plugins.formatter.plugin.plugin, PluginRef::File(dir.path().join("mine.wasm")));
    assert_eq!(config.plugins.policy.plugin.plugin, PluginRef::File("here/p.wasm".into()));
}

#[test]
fn a_base_model_that_is_no_path_beside_the_file_stays_a_name() {
    let config = run_config("agent_type = \"routing\"\nbase_model = \"org/name\"", &[]).unwrap();
    assert_eq!(config.base_model, Path::new("org/name"));
}

#[test]
fn an_agents_own_plugin_wins_over_the_plugin_of_all() {
    let text = "agent_type = \"mine\"\n[plugins]\nformatter = \"chat-formatter\"\n[agents.mine]\ninstruction = \"Do\"\n\
                match = [{ name_suffix = \"mine\" }, { attribute = \"a\", equals = \"b\" }]\nformatter = \"prompt-completion-formatter\"\n";
    let config = run_config(text, &[]).unwrap();
    assert_eq!(config.plugins.formatter.plugin.plugin, PluginRef::BuiltIn("prompt-completion-formatter".into()));
    assert_eq!(
        config.extraction.match_rules,
        [MatchRule::NameSuffix("mine".into()), MatchRule::AttributeEquals(("a".into(), "b".into()))]
    );
}

#[test]
fn a_flag_wins_over_the_files_plugin_for_an_agent() {
    let text = "agent_type = \"routing\"\n[plugins]\nformatter = \"a.wasm\"\npolicy = \"p.wasm\"\n[agents.routing]\n\
                formatter = \"b.wasm\"\nextractor = \"e.wasm\"\n";
    let (dir, options) = load_text(text, &["--formatter", "chat-formatter"]);
    let plugins = RunConfig::new(options.unwrap()).unwrap().plugins;
    assert_eq!(plugins.formatter.plugin.plugin, PluginRef::BuiltIn("chat-formatter".into()));
    assert_eq!(plugins.formatter.decided, Decided::Flag { name: "--formatter".into() });
    let path = Some(dir.path().join("tunesmith.toml"));
    let key = |key: &str| Decided::File { path: path.clone(), key: key.into() };
    assert_eq!(plugins.extractor.decided, key("agents.routing.extractor"));
    assert_eq!(plugins.policy.decided, key("plugins.policy"));
    let plugins = run_config("agent_type = \"routing\"", &[]).unwrap().plugins;
    assert_eq!(plugins.policy.decided, Decided::Default);
}

#[test]
fn a_pin_is_kept_with_the_path_that_is_relative_to_the_file() {
    let digits = "0123456789abcdef".repeat(4);
    let text = format!("agent_type = \"routing\"\n[plugins]\nformatter = \"mine.wasm@sha256:{digits}\"\n");
    let (dir, options) = load_text(&text, &[]);
    let formatter = RunConfig::new(options.unwrap()).unwrap().plugins.formatter;
    assert_eq!(formatter.to_string(), format!("{}@sha256:{digits}", dir.path().join("mine.wasm").display()));
    assert_eq!(
        run_config("agent_type = \"routing\"", &["--policy", "p.wasm@sha256:12"]).unwrap_err().to_string(),
        "`policy`: `sha256:12` is no SHA-256: give `sha256:` and all 64 hexadecimal digits, as `sha256sum` prints them"
    );
}

#[test]
fn plugin_settings_cross_as_text() {
    let text = "agent_type = \"routing\"\n[plugins.settings.formatter]\nlines = 3\nwide = true\nsep = \"x\"\n";
    let settings = run_config(text, &[]).unwrap().plugins.formatter_settings;
    let want = [("lines", "3"), ("sep", "x"), ("wide", "true")];
    assert_eq!(settings, want.map(|(key, value)| (key.to_owned(), value.to_owned())));
}

#[test]
fn values_that_make_no_sense_are_named_with_what_would() {
    let error = |text: &str| run_config(&format!("agent_type = \"routing\"\n{text}"), &[]).unwrap_err().to_string();
    assert_eq!(error("learning_rate = -1.0"), "`learning_rate` is -1: give a positive number");
    assert_eq!(error("[lora]\ndropout = 1.0"), "`lora.dropout` is 1: give a ratio from 0 to below 1");
    assert_eq!(error("[dpo]\nbeta = 0"), "`dpo.beta` is 0: give a positive number");
    assert_eq!(error("[triplet]\nmargin = -0.5"), "`triplet.margin` is -0.5: give a positive number");
    assert_eq!(
        error("[training]\nmemory_limit = \"8 bananas\""),
        "`training.memory_limit` is \"8 bananas\": give a size such as `8GiB` or `512MiB`"
    );
    assert_eq!(error("[training]\nwarmup_ratio = 2"), "`training.warmup_ratio` is 2: give a ratio from 0 to below 1");
    assert_eq!(
        error("backend = \"remote\""),
        "`backend_provider` is not set: say who trains with `--backend-provider`: `ray`, `slurm`, `kubernetes`, `sagemaker`, \
         `azure_ml` or `modal`"
    );
    assert!(error("epochs = 0").contains("line 2"), "{}", error("epochs = 0"));
    assert_eq!(
        error("tenant_id = \"../other\""),
        "`tenant_id` is \"../other\": use letters, digits, `_`, `-` and `.` only, and no leading `.`: it names a folder"
    );
}

#[test]
fn an_agent_type_without_rules_says_where_to_describe_it() {
    let error = run_config("", &[]).unwrap_err().to_string();
    assert!(error.starts_with("`agent_type` is not set: name the agent to train with `--agent-type`"), "{error}");
    let error = run_config("agent_type = \"mine\"", &[]).unwrap_err().to_string();
    assert!(error.ends_with("describe others in `[agents.mine]`"), "{error}");
    let error = run_config("agent_type = \"mine\"\n[agents.mine]\ninstruction = \"x\"", &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`match` is not set: give the rules that tell which spans are this agent's in `[agents.mine]`"
    );
}

#[test]
fn a_match_rule_of_no_known_shape_is_explained() {
    let error = run_config("[agents.x]\nmatch = [{ contains = \"extraction\" }]", &[]).unwrap_err().to_string();
    assert!(error.contains("a match rule is { name = \"...\" }"), "{error}");
}

#[test]
fn a_method_decides_the_kind_of_model_and_contradicts_no_other() {
    let config = run_config("method = \"triplet\"\nmodality = \"video\"", &[]).unwrap();
    assert_eq!((config.model_type, config.agent_type.as_str()), (ModelType::Embedding, "search"));
    assert_eq!(config.base_model, Path::new("jinaai/jina-embeddings-v3"));
    assert_eq!(config.extraction.settings, [("modality".to_owned(), "video".to_owned())]);
    let error = |text: &str| run_config(text, &["--agent-type", "routing"]).unwrap_err().to_string();
    assert_eq!(
        error("model_type = \"embedding\"\nmethod = \"dpo\""),
        "`model_type` is \"embedding\": an embedding model is trained by `method = \"triplet\"`, or \"auto\""
    );
    assert_eq!(
        error("model_type = \"llm\"\nmethod = \"triplet\""),
        "`model_type` is \"llm\": `method = \"triplet\"` trains embedding models; use \"sft\", \"dpo\" or \"auto\""
    );
}

#[test]
fn what_training_may_use_is_set_by_flags_and_by_the_file() {
    let text = "agent_type = \"routing\"\n[training]\nmemory_limit = \"2GiB\"\ncheckpoint_steps = 7\n[lora]\nfallback = \"full\"\n";
    let execution = run_config(text, &["--threads", "3"]).unwrap().execution;
    assert_eq!(
        execution,
        ExecutionConfig { memory_limit: Some(2 << 30), checkpoint_steps: 7, lora_fallback: LoraFallback::Full }
    );
}
