//! Searches whose documents people judged train an embedding model.

use std::fs;

use serde_json::{Value, json};

use crate::home::{Home, copy_folder, read_json, repository};
use crate::spans::lines;

/// What is searched for; the tiny BERT's tokenizer knows these words.
const TOPICS: [&str; 7] = [
    "solar panels",
    "bicycle brake",
    "fermented vegetables",
    "quarterly revenue",
    "the red gearbox",
    "whiteboard sketches",
    "robotics team",
];

/// A search of a modality that found one right document and two wrong ones.
fn search(index: usize, modality: &str) -> Value {
    let topic = |offset: usize| TOPICS[(index + offset) % TOPICS.len()];
    let document = |offset: usize| json!({ "document": { "content": format!("clips of {} {index}", topic(offset)) } });
    let judged = |position: usize, label: &str| {
        json!({
            "name": "relevance", "annotator_kind": "HUMAN", "identifier": "", "document_position": position,
            "result": { "label": label }, "created_at": "2025-03-04T06:26:01Z", "updated_at": "2025-03-04T06:26:01Z",
        })
    };
    json!({
        "name": "search_service.search",
        "context": { "trace_id": format!("{index:032x}"), "span_id": format!("{index:016x}") },
        "span_kind": "RETRIEVER", "status_code": "OK",
        "start_time": "2025-03-03T08:01:16Z", "end_time": "2025-03-03T08:01:17Z",
        "attributes": {
            "input.value": format!("where is {} {index}", topic(0)),
            "modality": modality,
            "retrieval": { "documents": [document(0), document(1), document(3)] },
        },
        "document_annotations": [judged(0, "relevant"), judged(1, "irrelevant"), judged(2, "irrelevant")],
    })
}

/// 70 judged searches: 140 triplets, of which 14 are held out.
pub(crate) fn home(modality: &str) -> Home {
    let home = Home::empty();
    home.write("traces.jsonl", lines((0..70).map(|index| search(index, modality))));
    home.write(
        "tunesmith.toml",
        "model_type = \"embedding\"\nmodality = \"video\"\nbase_model = \"model\"\noutput_dir = \"out\"\nepochs = 4\n\
         learning_rate = 2e-3\ntelemetry = { store = \"telemetry.sqlite\", import = [\"traces.jsonl\"] }\n",
    );
    copy_folder(&repository("trainer-cuda/tests/fixtures/golden/bert/base"), &home.path("model"));
    home
}

#[test]
fn judged_searches_train_an_embedding_model_and_are_judged_on_held_out_triplets() {
    let home = home("video");
    let folder = home.trains(&[]);
    assert!(folder.file_name().unwrap().to_str().unwrap().starts_with("embedding_video_"), "{folder:?}");
    let run = read_json(&folder.join("run.json"));
    let report = &run["report"];
    assert_eq!(report["decision"]["method"], "triplet");
    assert_eq!(report["decision"]["reason"], "Sufficient triplets: 126 >= 100. Recommend triplet training.");
    assert_eq!((&report["n_train"], &report["n_held_out"]), (&json!(126), &json!(14)));
    let of = |who: &str, what: &str| report["held_out"][who][what].as_f64().unwrap();
    assert!(of("adapter", "loss") < 0.8 * of("base", "loss"), "{report:#}");
    assert!(of("adapter", "triplet_accuracy") >= of("base", "triplet_accuracy"), "{report:#}");
    assert!(of("adapter", "negative_distance") > of("adapter", "positive_distance"), "{report:#}");
    assert_eq!(run["verdict"], "adapter beats base");
    assert_eq!(run["lineage"][0]["annotation_names"], json!(["relevance"]));

    let config = read_json(&folder.join("adapter_config.json"));
    assert_eq!(config["task_type"], "FEATURE_EXTRACTION");
    assert!(folder.join("adapter_model.safetensors").is_file());
    let card = fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(card.contains("pipeline_tag: sentence-similarity\n"), "{card}");
    assert!(card.contains("(triplet loss)") && card.contains("| triplet accuracy |"), "{card}");
    let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    for figure in ["triplet_accuracy", "positive_distance", "negative_distance"] {
        assert!(first[figure].is_f64(), "{figure}: {first}");
    }
}

#[test]
fn searches_of_another_modality_are_left_out() {
    home("image").refuses(
        &[],
        "Cannot train with empty dataset. No training examples available after formatting. Of 70 spans of `search` in \
         project `default` none gave a triplet (other modality: 70): annotate retrieved documents as `relevant` and \
         `irrelevant`, or record clicks in `search.clicked_documents`",
    );
}

#[test]
fn too_few_triplets_have_the_known_text() {
    let home = home("video");
    home.write("traces.jsonl", lines((0..10).map(|index| search(index, "video"))));
    home.refuses(
        &["--method", "triplet", "--generate-synthetic", "false"],
        "Insufficient triplets: 16 < 100. Need search spans with both relevant and irrelevant documents. Label more \
         documents of searches of `search`, or lower the threshold",
    );
}

#[test]
fn a_triplet_with_an_empty_text_names_the_field() {
    let home = home("video");
    let guest = repository("tests/guests/dist/hostile-formatter.wasm");
    home.write(
        "tunesmith.toml",
        String::from_utf8(home.read("tunesmith.toml")).unwrap()
            + &format!("plugins = {{ formatter = {guest:?}, settings.formatter.behaviour = \"empty-text\" }}\n"),
    );
    home.refuses(
        &[],
        "Invalid embedding dataset at index 0: missing required fields ['negative']. Expected fields: ['anchor', \
         'positive', 'negative'], got: ['anchor', 'positive']",
    );
}

#[test]
fn a_language_model_is_no_base_of_an_embedding_run() {
    let home = home("video");
    copy_folder(&crate::home::tiny_model(), &home.path("llama"));
    home.refuses(
        &["--base-model", "llama"],
        "`llama` is a `LlamaForCausalLM`, a causal language model; this needs a text embedding model; name another model \
         with `--base-model`",
    );
}
