//! Configurations that no run can follow.

use crate::home::Home;

#[test]
fn an_unknown_key() {
    let home = Home::ready();
    home.configure("learnin_rate = 1e-4");
    home.refuses(
        &[],
        "`tunesmith.toml`: TOML parse error at line 7, column 1\n  \
           |\n\
         7 | learnin_rate = 1e-4\n  \
           | ^^^^^^^^^^^^\n\
         unknown field `learnin_rate`, expected one of `tenant_id`, `project`, `model_type`, `agent_type`, \
         `modality`, `base_model`, `method`, `min_sft_examples`, `min_dpo_pairs`, `min_triplets`, `epochs`, `batch_size`, `learning_rate`, \
         `use_lora`, `backend`, `backend_provider`, `gpu`, `gpu_count`, `cpu`, `memory`, `timeout`, `generate_synthetic`, `output_dir`, \
         `seed`, `telemetry`, `training`, `compute`, `lora`, `dpo`, `triplet`, `redaction`, `dataset`, `review`, `synthetic`, `remote`, \
         `plugins`, `serve`, `extraction`, `agents`\n\
         did you mean `learning_rate`?",
    );
}

#[test]
fn an_unknown_key_of_a_section() {
    let home = Home::ready();
    home.configure("lora = { ranc = 4 }");
    home.refuses(
        &[],
        "`tunesmith.toml`: TOML parse error at line 7, column 10\n  \
           |\n\
         7 | lora = { ranc = 4 }\n  \
           |          ^^^^\n\
         unknown field `ranc`, expected one of `rank`, `alpha`, `dropout`, `target_modules`, `use_rslora`, `fallback`\n\
         did you mean `rank`?",
    );
}

#[test]
fn a_missing_configuration_file() {
    Home::ready().refuses(
        &["--config", "tenants/acme.toml"],
        "cannot read the configuration `tenants/acme.toml`: No such file or directory (os error 2)",
    );
}

#[test]
fn an_agent_that_nobody_described() {
    Home::ready().refuses(
        &["--agent-type", "dancing"],
        "`agent_type` is \"dancing\": known are `routing`, `profile_selection`, `entity_extraction` and `search`; describe \
         others in `[agents.dancing]`",
    );
}

#[test]
fn a_warmup_as_long_as_the_run() {
    // 54 examples in batches of 4 are 14 steps, and the warmup is rounded up.
    Home::ready().refuses(
        &["--warmup-ratio", "0.95"],
        "a warmup of 14 steps is as long as the run of 14 steps; lower `warmup_ratio` or train longer",
    );
}

#[test]
fn a_warmup_ratio_of_one() {
    Home::ready().refuses(&["--warmup-ratio", "1"], "`training.warmup_ratio` is 1: give a ratio from 0 to below 1");
}

#[test]
fn a_lora_target_that_the_model_lacks() {
    Home::ready().refuses(
        &["--target-modules", "query,value"],
        "no module matches the LoRA target modules `query`, `value`; the model has `q_proj`, `k_proj`, `v_proj`, \
         `o_proj`, `gate_proj`, `up_proj`, `down_proj`; name some of these with `--target-modules`, or leave it out",
    );
}

#[test]
fn a_maximum_length_that_leaves_nothing_to_train() {
    Home::ready().refuses(
        &["--max-length", "3"],
        "Cannot train with empty dataset. No training examples available after formatting. All were left out (longer \
         than max_length: 54): change the formatter, or raise `max_length`",
    );
}

#[test]
fn an_output_folder_that_is_a_file() {
    let home = Home::ready();
    home.write("taken", "");
    home.refuses(&["--output-dir", "taken"], "cannot create `taken`: File exists (os error 17)");
}

#[test]
fn a_lora_target_that_the_model_lacks_trains_every_weight_where_that_is_allowed() {
    let home = Home::ready();
    let ended = home.run(&["finetune", "--target-modules", "query", "--lora-fallback", "full", "--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let warning = "Failed to apply LoRA (continuing with full fine-tuning): no module matches the LoRA target modules \
                   `query`; the model has `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`\n";
    assert!(ended.stderr.contains(warning), "{}", ended.stderr);
    let report = ended.json();
    assert_eq!(report["lora"], false);
    assert!(home.path(report["adapter_path"].as_str().unwrap()).join("model.safetensors").is_file());
}

#[test]
fn a_base_model_of_another_kind_than_the_method() {
    Home::ready().refuses(
        &["--method", "triplet"],
        "`model` is a `LlamaForCausalLM`, a causal language model; this needs a text embedding model; name another model \
         with `--base-model`",
    );
}

#[test]
fn a_size_that_is_none() {
    Home::ready().refuses(
        &["--memory-limit", "lots"],
        "`training.memory_limit` is \"lots\": give a size such as `8GiB` or `512MiB`",
    );
}

#[test]
fn a_stack_of_plugins_that_a_thread_does_not_have() {
    for kib in ["32", "4096"] {
        Home::ready().refuses(
            &["--plugin-stack-kib", kib],
            &format!("`plugins.stack_kib` is {kib}: give a size from 64 to 1024"),
        );
    }
}
