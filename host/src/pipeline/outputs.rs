//! What a run folder tells beside the adapter: `run.json` for machines, `README.md` for people.

use serde::Serialize;
use trainer_cuda::formats::BaseModel;

use crate::config::RunConfig;
use crate::dataset;
use crate::error::HostError;
use crate::plugins::bindings::types::{Example, Lineage};
use crate::plugins::{PluginIdentity, WIT_VERSION};
use crate::report::RunReport;
use crate::run_dir::RunDir;

use super::RunPlugins;
use super::format::TokenSet;

/// What went into a run.
pub(super) struct Inputs<'a> {
    pub(super) base: &'a BaseModel,
    pub(super) plugins: &'a RunPlugins,
    pub(super) train: &'a TokenSet,
    pub(super) held_out: &'a TokenSet,
}

/// `run.json`.
#[derive(Serialize)]
struct RunRecord<'a> {
    versions: Versions,
    report: &'a RunReport,
    verdict: Option<&'static str>,
    config: &'a RunConfig,
    base_sha256: String,
    plugins: [&'a PluginIdentity; 3],
    lineage: Vec<LineageRecord<'a>>,
}

#[derive(Serialize)]
struct Versions {
    tunesmith: &'static str,
    wit: &'static str,
}

/// Where one example came from.
#[derive(Serialize)]
struct LineageRecord<'a> {
    set: &'static str,
    corrected: bool,
    #[serde(flatten)]
    lineage: &'a Lineage,
}

/// Writes both files.
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
        plugins: inputs.plugins.identities(),
        lineage: sets.iter().flat_map(|(set, of)| of.sources.iter().map(|example| lineage(set, example))).collect(),
    };
    run_dir.write_json("run.json", &record)?;
    run_dir.write("README.md", &model_card(report))
}

fn lineage<'a>(set: &'static str, example: &'a Example) -> LineageRecord<'a> {
    let corrected = matches!(example, Example::Instruction(example) if example.corrected);
    LineageRecord { set, corrected, lineage: dataset::lineage(example) }
}

/// The front matter is what model hubs read.
fn model_card(report: &RunReport) -> String {
    let (library, what, load) = match report.lora {
        true => ("peft", "A LoRA adapter", LOAD_ADAPTER),
        false => ("transformers", "A fully fine-tuned model", LOAD_MODEL),
    };
    // A JSON string is a YAML string, whatever is in the path.
    let base = serde_json::Value::from(report.base_model.to_string_lossy());
    let scores = match &report.held_out {
        Some(held_out) => format!(
            "| | loss | exact match |\n|---|---:|---:|\n| base | {:.4} | {:.1}% |\n| this | {:.4} | {:.1}% |\n\nVerdict: {}.",
            held_out.base.loss,
            100.0 * held_out.base.accuracy(),
            held_out.adapter.loss,
            100.0 * held_out.adapter.accuracy(),
            held_out.verdict()
        ),
        None => "Not judged: there were too few examples to hold any out.".to_owned(),
    };
    format!(
        "---\nlibrary_name: {library}\nbase_model: {base}\npipeline_tag: text-generation\n---\n\n\
         # {agent}\n\n\
         {what} for the `{agent}` agent, trained by Tunesmith (supervised fine-tuning) on the approved traces of project `{project}`.\n\n\
         {n_train} examples trained it; these are its scores on {n_held_out} others, which share no input, trace or session \
         with them:\n\n{scores}\n\n\
         `run.json` names the spans behind every example, the plugins, the configuration and the base's digest; \
         `metrics.jsonl` has every step.\n\n## Use\n\n```python\n{load}\n```\n",
        agent = report.agent_type,
        project = report.project,
        n_train = report.n_train,
        n_held_out = report.n_held_out,
    )
}

const LOAD_ADAPTER: &str = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n\
                            model = AutoPeftModelForCausalLM.from_pretrained(\".\")\n\
                            tokenizer = AutoTokenizer.from_pretrained(\".\")";
const LOAD_MODEL: &str = "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
                          model = AutoModelForCausalLM.from_pretrained(\".\")\n\
                          tokenizer = AutoTokenizer.from_pretrained(\".\")";
