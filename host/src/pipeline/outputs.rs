//! What a run folder tells beside the adapter: `run.json` and `dataset.json` for machines, `README.md` for people.

use serde::Serialize;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::Evaluation;

use crate::approval::Approval;
use crate::config::RunConfig;
use crate::dataset;
use crate::error::HostError;
use crate::plugins::bindings::types::{Example, Lineage};
use crate::plugins::{Costs, PluginIdentity, WIT_VERSION};
use crate::report::{self, HeldOutComparison, RunReport};
use crate::run_dir::RunDir;

use super::card::DatasetCard;
use super::{Admitted, RunPlugins};

/// What went into a run.
pub(super) struct Inputs<'a> {
    pub(super) base: &'a BaseModel,
    pub(super) plugins: &'a RunPlugins,
    /// The examples that trained.
    pub(super) train: &'a [Admitted],
    /// The examples that judged.
    pub(super) held_out: &'a [Admitted],
    /// What they are, in numbers.
    pub(super) card: &'a DatasetCard<'a>,
}

/// `run.json`.
#[derive(Serialize)]
struct RunRecord<'a> {
    versions: Versions,
    report: &'a RunReport,
    verdict: Option<&'static str>,
    config: &'a RunConfig,
    base_sha256: String,
    plugins: [PluginRecord<'a>; 3],
    lineage: Vec<LineageRecord<'a>>,
}

#[derive(Serialize)]
struct Versions {
    tunesmith: &'static str,
    wit: &'static str,
}

/// Who did what, and what its calls took.
#[derive(Serialize)]
struct PluginRecord<'a> {
    #[serde(flatten)]
    identity: &'a PluginIdentity,
    costs: Costs,
}

/// Where one example came from.
#[derive(Serialize)]
struct LineageRecord<'a> {
    set: &'static str,
    corrected: bool,
    /// Where it was generated: by what, and who approved it. The spans are those that the generator was shown, then.
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<&'a Approval>,
    #[serde(flatten)]
    lineage: &'a Lineage,
}

/// Writes the files.
pub(super) fn write(
    run_dir: &RunDir,
    config: &RunConfig,
    report: &RunReport,
    inputs: &Inputs<'_>,
) -> Result<(), HostError> {
    let sets = [("train", inputs.train), ("held_out", inputs.held_out)];
    let record = RunRecord {
        versions: Versions { tunesmith: env!("CARGO_PKG_VERSION"), wit: WIT_VERSION },
        report,
        verdict: report.held_out.map(|held_out| held_out.verdict()),
        config,
        base_sha256: inputs.base.sha256()?,
        plugins: inputs.plugins.costs().map(|(identity, costs)| PluginRecord { identity, costs }),
        lineage: sets.iter().flat_map(|(set, of)| of.iter().map(|example| lineage(set, example))).collect(),
    };
    run_dir.write_json("run.json", &record)?;
    run_dir.write_json("dataset.json", inputs.card)?;
    run_dir.write("README.md", &model_card(report, inputs.card))
}

fn lineage<'a>(set: &'static str, admitted: &'a Admitted) -> LineageRecord<'a> {
    let example = admitted.example();
    let corrected = matches!(example, Example::Instruction(example) if example.corrected);
    LineageRecord { set, corrected, approval: admitted.approval(), lineage: dataset::lineage(example) }
}

/// The front matter is what model hubs read.
fn model_card(report: &RunReport, card: &DatasetCard<'_>) -> String {
    let embeds = report.decision.method == Some("triplet");
    let (library, what, load) = match (embeds, report.lora) {
        (false, true) => ("peft", "A LoRA adapter", LOAD_ADAPTER),
        (false, false) => ("transformers", "A fully fine-tuned model", LOAD_MODEL),
        (true, true) => ("peft", "A LoRA adapter of an embedding model", LOAD_EMBEDDING_ADAPTER),
        (true, false) => ("sentence-transformers", "A fully fine-tuned embedding model", LOAD_EMBEDDING_MODEL),
    };
    let task = if embeds { "sentence-similarity" } else { "text-generation" };
    let method = match report.decision.method {
        Some("dpo") => "direct preference optimisation",
        Some("triplet") => "triplet loss",
        _ => "supervised fine-tuning",
    };
    // A JSON string is a YAML string, whatever is in the path.
    let base = serde_json::Value::from(report.base_model.to_string_lossy());
    let scores = match &report.held_out {
        Some(held_out) => format!("{}\n\nVerdict: {}.", score_table(held_out), held_out.verdict()),
        None => "Not judged: there were too few examples to hold any out.".to_owned(),
    };
    format!(
        "---\nlibrary_name: {library}\nbase_model: {base}\npipeline_tag: {task}\n---\n\n\
         # {agent}\n\n\
         {what} for the `{agent}` agent, trained by Tunesmith ({method}) on the judged traces of project `{project}`.\n\n\
         {n_train} examples trained it; these are its scores on {n_held_out} others, which share no input, trace or session \
         with them:\n\n{scores}\n\n\
         `run.json` names the spans behind every example, the plugins, the configuration and the base's digest; \
         `dataset.json` has the data in numbers, `metrics.jsonl` every step.\n\n{data}\n## Use\n\n```python\n{load}\n```\n",
        agent = report.agent_type,
        project = report.project,
        n_train = report.n_train,
        n_held_out = report.n_held_out,
        data = card.section(),
    )
}

fn score_table(held_out: &HeldOutComparison) -> String {
    let cells = |scores: &Evaluation| report::figures(scores.loss, &scores.metrics);
    let columns: Vec<_> = cells(&held_out.base).into_iter().map(|(name, _)| name).collect();
    let row = |name: &str, scores| {
        let values: Vec<_> = cells(scores).into_iter().map(|(_, value)| value).collect();
        format!("| {name} | {} |", values.join(" | "))
    };
    format!(
        "| | {} |\n|---|{}\n{}\n{}",
        columns.join(" | "),
        "---:|".repeat(columns.len()),
        row("base", &held_out.base),
        row("this", &held_out.adapter)
    )
}

const LOAD_ADAPTER: &str = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n\
                            model = AutoPeftModelForCausalLM.from_pretrained(\".\")\n\
                            tokenizer = AutoTokenizer.from_pretrained(\".\")";
const LOAD_MODEL: &str = "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
                          model = AutoModelForCausalLM.from_pretrained(\".\")\n\
                          tokenizer = AutoTokenizer.from_pretrained(\".\")";
const LOAD_EMBEDDING_ADAPTER: &str = "import json\nfrom sentence_transformers import SentenceTransformer\n\n\
                                      base = json.load(open(\"adapter_config.json\"))[\"base_model_name_or_path\"]\n\
                                      model = SentenceTransformer(base)\nmodel.load_adapter(\".\")";
const LOAD_EMBEDDING_MODEL: &str = "from sentence_transformers import SentenceTransformer\n\n\
                                    model = SentenceTransformer(\".\")";
