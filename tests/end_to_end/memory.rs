//! What a training takes: told before there is data, and a reason to refuse.

use std::fs;

use serde_json::{Value, json};

use crate::home::{Home, copy_folder, repository};

fn plan(home: &Home, args: &[&str]) -> Value {
    let ended = home.run(&[&["plan", "--json"], args].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.json()
}

fn group<'a>(plan: &'a Value, name: &str) -> &'a Value {
    plan["groups"].as_array().unwrap().iter().find(|group| group["name"] == name).unwrap()
}

/// Bytes of the tensors in a safetensors file.
fn tensor_bytes(file: &[u8]) -> u64 {
    file.len() as u64 - 8 - u64::from_le_bytes(file[..8].try_into().unwrap())
}

/// The model's weights on a GPU: bf16, but for the vectors. Layers of one input are one matrix, whose updates lie beside it
/// and once more transposed; a matrix on its way there takes 8 MiB. All in blocks of 256 bytes.
fn gpu_weight_bytes() -> u64 {
    let blocks = |bytes: u64| bytes.next_multiple_of(256);
    let linear = |inp: u64, out: u64, rank: u64| blocks(2 * (out + rank) * (inp + rank)) + blocks(2 * rank * out);
    let (embedding, norm) = (blocks(2 * 400 * 48), blocks(4 * 48));
    let attention = linear(48, 48 + 24 + 24, 3 * 8) + linear(48, 48, 8);
    let mlp = linear(48, 2 * 96, 2 * 8) + linear(96, 48, 8);
    embedding + 2 * (2 * norm + attention + mlp) + norm + (8 << 20)
}

#[test]
fn a_plan_counts_the_models_own_weights_and_groups_that_add_up() {
    let home = Home::ready();
    for method in ["sft", "dpo"] {
        let plan = plan(&home, &["--method", method, "--max-length", "32"]);
        let weights = tensor_bytes(&home.read("model/model.safetensors"));
        assert_eq!(group(&plan, "weights")["cpu_bytes"], weights);
        assert_eq!(group(&plan, "weights")["gpu_bytes"], gpu_weight_bytes());
        // Rank 8 on seven modules of two layers: 8 x (48+48, 48+24, 48+24, 48+48, 48+96, 48+96, 96+48), twice.
        assert_eq!(plan["trained_values"], 2 * 8 * (96 + 72 + 72 + 96 + 3 * 144));
        for bytes in ["cpu_bytes", "gpu_bytes"] {
            let sum: u64 = plan["groups"].as_array().unwrap().iter().map(|group| group[bytes].as_u64().unwrap()).sum();
            assert_eq!(plan["total"][bytes], sum);
        }
        let sequences = if method == "dpo" { 8 } else { 4 };
        assert_eq!(plan["batch_tokens"], sequences * 32);
        // By hand, as the plan's own test: the residual of each block and the last, and what a block keeps beside it.
        let per_token = 3 * 48 + 2 * (3 * 48 + 2 * 24 + 2 * 96 + 2 + 4 + 7 * 8);
        assert_eq!(group(&plan, "activations")["cpu_bytes"], 4 * sequences * 32 * per_token);
        assert!(plan["time"]["step_s"].as_f64().unwrap() > 0.0);
        assert!(plan["time"]["flops_per_second"].as_f64().unwrap() > 1e6);
    }
}

#[test]
fn bf16_halves_the_matrices_and_recompute_keeps_one_blocks_activations() {
    let home = Home::ready();
    let whole = plan(&home, &[]);
    let bytes = |plan: &Value, name| group(plan, name)["cpu_bytes"].as_u64().unwrap();
    let vectors = 4 * 5 * 48; // five norms
    let halved = plan(&home, &["--precision", "bf16"]);
    assert_eq!(bytes(&halved, "weights"), (bytes(&whole, "weights") - vectors) / 2 + vectors);
    let recomputed = plan(&home, &["--recompute", "true"]);
    assert!(bytes(&recomputed, "activations") < bytes(&whole, "activations") * 2 / 3);
    assert!(recomputed["time"]["step_flops"].as_f64() > whole["time"]["step_flops"].as_f64());
    let full = plan(&home, &["--use-lora", "false"]);
    assert_eq!(bytes(&full, "weights and optimiser"), 4 * bytes(&whole, "weights"));
}

#[test]
fn the_largest_batch_fits_and_one_more_does_not() {
    let home = Home::ready();
    // Every run on a GPU has workspaces of 40 MiB.
    for (mebibytes, device, bytes) in [(8, "cpu", "cpu_bytes"), (48, "gpu", "gpu_bytes")] {
        let memory = mebibytes << 20;
        let fits = &plan(&home, &["--max-length", "64", "--memory", &format!("{mebibytes}MiB")])["fits"][device];
        assert_eq!(fits["memory_bytes"], memory);
        let n = fits["batch_size"].as_u64().unwrap();
        assert!(n > 4, "{fits}");
        let total =
            |n: u64| plan(&home, &["--max-length", "64", "--batch-size", &n.to_string()])["total"][bytes].as_u64();
        assert!(total(n).unwrap() <= memory && total(n + 1).unwrap() > memory, "{device}: {fits}");
    }
    let fits = &plan(&home, &["--memory", "100KiB"])["fits"];
    assert_eq!((&fits["cpu"]["batch_size"], &fits["gpu"]["batch_size"]), (&json!(0), &json!(0)));
}

#[test]
fn a_plan_reads_as_a_table() {
    let home = Home::ready();
    let ended = home.run(&["plan", "--max-length", "32", "--memory", "1GiB"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let start = "sft of model (LlamaForCausalLM), 0.01 million values trained\n\
                 batches of 4 sequences of 32 tokens that share nothing: what shares a beginning takes less\n\n \
                 memory                           CPU  GPU (bf16)\n \
                 weights                   237.94 KiB    8.18 MiB\n";
    assert!(ended.stdout.starts_with(start), "{}", ended.stdout);
    assert!(ended.stdout.contains("\nlargest batch in 1.00 GiB of a CPU: "), "{}", ended.stdout);
    assert!(ended.stdout.contains(" 100 examples with `epochs = 1`: 25 steps, "), "{}", ended.stdout);
}

#[test]
fn an_encoder_has_a_plan_too_and_a_method_of_the_other_kind_has_none() {
    let home = Home::ready();
    copy_folder(&repository("trainer-cuda/tests/fixtures/golden/bert/base"), &home.path("bert"));
    let plan = plan(&home, &["--base-model", "bert", "--method", "triplet"]);
    assert_eq!(plan["batch_tokens"], 4 * 3 * 64);
    let ended = home.run(&["plan", "--base-model", "bert"]);
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        ended.error(),
        "`bert` is a `BertModel`, a text embedding model; this needs a causal language model; name another model with \
         `--base-model`"
    );
}

#[test]
fn a_training_that_does_not_fit_is_refused_with_the_plans_numbers_and_what_would_fit() {
    let home = Home::ready();
    let args = ["finetune", "--memory-limit", "1500KiB"];
    let ended = home.run(&args);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let error = ended.error();
    assert!(error.starts_with("CPU out of memory. Tried to allocate 1."), "{error}");
    let numbers = " MiB (weights 237.94 KiB, LoRA and optimiser 192.00 KiB, activations ";
    assert!(error.contains(numbers), "{error}");
    let (_, remedy) = error.split_once("), and `training.memory_limit` is 1.46 MiB; `").unwrap();
    let (flags, _) = remedy.split_once("` would take ").unwrap();
    assert_eq!(home.outputs(), [""; 0]);

    // What it names does fit.
    let flags: Vec<_> = flags.split(' ').collect();
    let folder = home.trains(&[&args[1..], &flags].concat());
    let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.matches("\"event\":\"step\"").count(), 14); // as many optimiser steps
}

#[test]
fn a_training_of_which_no_batch_fits_says_so() {
    let home = Home::ready();
    let ended = home.run(&["finetune", "--memory-limit", "100KiB"]);
    assert_eq!(ended.code, Some(1));
    let remedy = "`training.memory_limit` is 100.00 KiB; no batch of this model fits: use a smaller model, a shorter \
                  `--max-length`, or a machine with more memory";
    assert!(ended.error().ends_with(remedy), "{}", ended.error());
    assert_eq!(home.outputs(), [""; 0]);
}

#[test]
fn a_size_for_the_plan_that_is_none() {
    let ended = Home::ready().run(&["plan", "--memory", "lots"]);
    assert_eq!((ended.code, ended.error()), (Some(1), "`memory` is \"lots\": give a size such as `8GiB` or `512MiB`"));
    assert_eq!(json!(ended.stdout), "");
}
