//! The quick start of the README, from its sample telemetry to an adapter that beats its base.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::home::{Home, copy_folder, read_json, repository};

#[test]
fn the_quick_start_ends_with_an_adapter_that_beats_its_base() {
    let home = Home::empty();
    copy_folder_of_quick_start(&home);
    let ended = home.run(&["finetune", "--config", "quickstart/tunesmith.toml"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.ends_with("\n\nadapter beats base\n"), "{}", ended.stdout);

    let adapters = home.path("quickstart/outputs/adapters");
    let folders: Vec<_> = fs::read_dir(adapters).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [folder] = folders.as_slice() else { panic!("{folders:?}") };
    let run = read_json(&folder.join("run.json"));

    has_every_file(folder);
    is_far_better(&run);
    stays_small_and_quick(&run["report"]);
    has_the_configuration_of_peft(folder);
    has_the_keys_of_peft(folder);
    tells_where_every_example_came_from(&run, &home.path("quickstart/telemetry.jsonl"));
    names_plugins_and_base_by_their_digests(&run);
}

fn copy_folder_of_quick_start(home: &Home) {
    let from = repository("examples/quickstart");
    copy_folder(&from.join("base"), &home.path("quickstart/base"));
    for file in ["tunesmith.toml", "telemetry.jsonl"] {
        fs::copy(from.join(file), home.path("quickstart").join(file)).unwrap();
    }
}

fn has_every_file(folder: &Path) {
    let names: BTreeSet<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let expected = [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "dataset.json",
        "metrics.jsonl",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
    let card = fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(card.starts_with("---\nlibrary_name: peft\nbase_model: \""), "{card}");
    assert!(card.contains("\nVerdict: adapter beats base.\n"), "{card}");
}

fn is_far_better(run: &Value) {
    assert_eq!(run["verdict"], "adapter beats base");
    let scores = |who: &str, what: &str| run["report"]["held_out"][who][what].as_f64().unwrap();
    // Measured 16% -> 94% of 31, and 0.87 -> 0.35 nats. The base has never seen the agents' names.
    assert!(scores("base", "exact_match") < 0.4, "{run:#}");
    assert!(scores("adapter", "exact_match") > 0.8, "{run:#}");
    assert!(scores("adapter", "loss") < 0.6 * scores("base", "loss"), "{run:#}");
}

/// Under two minutes and under 1 GB is what the README promises.
fn stays_small_and_quick(report: &Value) {
    assert!(report["timings"]["total_s"].as_f64().unwrap() < 120.0, "{report:#}");
    assert!(report["peak_rss_bytes"].as_u64().unwrap() < 1 << 30, "{report:#}");
}

fn has_the_configuration_of_peft(folder: &Path) {
    let config = read_json(&folder.join("adapter_config.json"));
    let base = config["base_model_name_or_path"].as_str().unwrap();
    assert!(base.ends_with("quickstart/base"), "{base}");
    let modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let expected = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16.0, "lora_dropout": 0.0,
        "target_modules": modules, "use_rslora": false, "bias": "none", "inference_mode": true,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&config[key], value, "{key}");
    }
}

/// PEFT's names, with the shapes of rank 8 over the base's: A is `[rank, in]`, B is `[out, rank]`.
fn has_the_keys_of_peft(folder: &Path) {
    let bytes = fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let found: BTreeMap<_, _> = (header.as_object().unwrap().iter())
        .filter(|(name, _)| *name != "__metadata__")
        .map(|(name, tensor)| (name.clone(), tensor["shape"].clone()))
        .collect();

    let (hidden, intermediate, kv) = (192, 512, 2 * 32);
    let modules = [
        ("self_attn.q_proj", hidden, hidden),
        ("self_attn.k_proj", hidden, kv),
        ("self_attn.v_proj", hidden, kv),
        ("self_attn.o_proj", hidden, hidden),
        ("mlp.gate_proj", hidden, intermediate),
        ("mlp.up_proj", hidden, intermediate),
        ("mlp.down_proj", intermediate, hidden),
    ];
    let mut expected = BTreeMap::new();
    for layer in 0..5 {
        for (module, inputs, outputs) in modules {
            let name = format!("base_model.model.model.layers.{layer}.{module}");
            expected.insert(format!("{name}.lora_A.weight"), json!([8, inputs]));
            expected.insert(format!("{name}.lora_B.weight"), json!([outputs, 8]));
        }
    }
    assert_eq!(found, expected);
}

/// Read from the telemetry itself, not from what the run says of it: every span behind an example is an approved or
/// corrected one of this agent, and no span, trace, session or input is on both sides.
fn tells_where_every_example_came_from(run: &Value, telemetry: &Path) {
    let telemetry = fs::read_to_string(telemetry).unwrap();
    let (mut spans, mut judged) = (HashMap::new(), BTreeSet::new());
    for line in telemetry.lines() {
        let Ok(record) = serde_json::from_str::<Value>(line) else { continue };
        if let Some(id) = record["context"]["span_id"].as_str() {
            spans.insert(id.to_owned(), record);
        } else if record["annotator_kind"] == "HUMAN" {
            judged.insert(record["span_id"].as_str().unwrap().to_owned());
        }
    }

    let lineage = run["lineage"].as_array().unwrap();
    let of_set = |set: &str| lineage.iter().filter(|example| example["set"] == set).count() as u64;
    let (n_train, n_held_out) = (&run["report"]["n_train"], &run["report"]["n_held_out"]);
    assert_eq!((of_set("train"), of_set("held_out")), (n_train.as_u64().unwrap(), n_held_out.as_u64().unwrap()));
    assert_eq!(lineage.len() as u64, of_set("train") + of_set("held_out"));
    assert!(of_set("held_out") >= 30, "{n_held_out}");

    // What ties examples together -> the side that it is on.
    let mut sides: HashMap<String, &str> = HashMap::new();
    for example in lineage {
        let set = example["set"].as_str().unwrap();
        let span_ids = example["span_ids"].as_array().unwrap();
        assert!(!span_ids.is_empty(), "{example}");
        for id in span_ids.iter().map(|id| id.as_str().unwrap()) {
            let span = spans.get(id).unwrap_or_else(|| panic!("`{id}` is no span of the telemetry"));
            assert!(judged.contains(id), "nobody judged `{id}`");
            assert_eq!(span["attributes"]["agent.name"], "routing_agent", "`{id}`");
            let input = span["attributes"]["input.value"].as_str().unwrap();
            let input = input.split_whitespace().collect::<Vec<_>>().join(" ");
            let mut ties = vec![format!("span {id}"), format!("input {input}")];
            ties.push(format!("trace {}", span["context"]["trace_id"]));
            ties.extend(span["attributes"]["session.id"].as_str().map(|session| format!("session {session}")));
            for tie in ties {
                let side = sides.entry(tie.clone()).or_insert(set);
                assert_eq!(*side, set, "{tie} is on both sides");
            }
        }
    }
}

fn names_plugins_and_base_by_their_digests(run: &Value) {
    let lock: toml::Table =
        toml::from_str(&fs::read_to_string(repository("plugins/dist/plugins.lock")).unwrap()).unwrap();
    let names = ["annotated-extractor", "alpaca-formatter", "threshold-policy"];
    for (plugin, name) in run["plugins"].as_array().unwrap().iter().zip(names) {
        assert_eq!(plugin["name"], name);
        assert_eq!(plugin["sha256"].as_str(), lock["plugins"][name]["sha256"].as_str(), "{name}");
    }
    assert_eq!(run["plugins"].as_array().unwrap().len(), names.len());

    // `sha256sum config.json *.safetensors | sha256sum`, in the base's folder.
    let base = repository("examples/quickstart/base");
    let list: String = ["config.json", "model.safetensors"]
        .map(|name| format!("{}  {name}\n", sha256(&fs::read(base.join(name)).unwrap())))
        .concat();
    assert_eq!(run["base_sha256"], sha256(list.as_bytes()));
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
