//! Reads a golden set and prints how far we are from it.

use crate::bench::Bounds;
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};
use trainer_cuda::batch::TokenExample;
use trainer_cuda::config::TrainConfig;
use trainer_cuda::device::Device;
use trainer_cuda::encode::{EncodeConfig, LossOn, Record, encode_sft};
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::Method;
use trainer_cuda::schedule::{LearningRate, Schedule};
use trainer_cuda::trainer::Trainer;

/// One model of the set.
pub(crate) struct Golden {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) base: BaseModel,
    reference: Value,
    tensors: Vec<u8>,
}

/// One step of a reference trajectory.
pub(crate) struct ReferenceStep {
    pub(crate) loss: f64,
    pub(crate) grad_norm: f64,
    pub(crate) learning_rate: f64,
}

/// Every causal language model of the set.
pub(crate) fn decoders() -> impl Iterator<Item = Golden> {
    all().filter(|golden| golden.base.decoder().is_ok())
}

/// Every text embedding model of the set.
pub(crate) fn encoders() -> impl Iterator<Item = Golden> {
    all().filter(|golden| golden.base.encoder().is_ok())
}

/// Prints the folder. A model that does not open fails the test: nothing of the set goes unchecked.
fn all() -> impl Iterator<Item = Golden> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden");
    let folder = std::env::var_os("TUNESMITH_GOLDEN").map_or(fixtures, PathBuf::from);
    println!("golden set: {}", folder.display());
    let mut models: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("cannot read the golden set `{}`: {error}", folder.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.join("ref.json").is_file())
        .collect();
    models.sort();
    assert!(!models.is_empty(), "no model with a ref.json in `{}`", folder.display());
    models.into_iter().map(|path| Golden::open(&path))
}

impl Golden {
    fn open(folder: &Path) -> Self {
        let name = folder.file_name().expect("a sub-folder").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(folder.join("ref.json")).expect("ref.json is readable");
        let reference: Value = serde_json::from_str(&text).expect("ref.json is JSON");
        let base = BaseModel::open(&folder.join("base")).unwrap_or_else(|error| panic!("{name}: {error}"));
        let tensors = std::fs::read(folder.join("ref.safetensors")).expect("ref.safetensors is readable");
        Self { name, folder: folder.to_owned(), base, reference, tensors }
    }

    pub(crate) fn at(&self, path: &[&str]) -> &Value {
        path.iter().fold(&self.reference, |value, key| {
            value.get(key).unwrap_or_else(|| panic!("{}: ref.json lacks {path:?}", self.name))
        })
    }

    pub(crate) fn list(&self, path: &[&str]) -> &[Value] {
        self.at(path).as_array().unwrap_or_else(|| panic!("{}: {path:?} is no list", self.name))
    }

    pub(crate) fn number(&self, path: &[&str]) -> f64 {
        self.at(path).as_f64().unwrap_or_else(|| panic!("{}: {path:?} is no number", self.name))
    }

    /// Rank and alpha of every adapter of the model.
    pub(crate) fn lora(&self) -> (usize, f32) {
        (self.number(&["lora", "r"]) as usize, self.number(&["lora", "alpha"]) as f32)
    }

    pub(crate) fn ids(&self, path: &[&str]) -> Vec<Vec<u32>> {
        self.list(path).iter().map(ids).collect()
    }

    pub(crate) fn labels(&self, path: &[&str]) -> Vec<Vec<bool>> {
        self.list(path).iter().map(labels).collect()
    }

    /// `input_ids` and `labels` of a list of objects.
    pub(crate) fn rows(&self, path: &[&str]) -> Vec<(Vec<u32>, Vec<bool>)> {
        self.list(path).iter().map(|row| (ids(&row["input_ids"]), labels(&row["labels"]))).collect()
    }

    /// A tensor of ref.safetensors.
    pub(crate) fn tensor(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.tensors).expect("ref.safetensors is whole");
        let view = file.tensor(name).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    pub(crate) fn trajectory(&self, tag: &str) -> Vec<ReferenceStep> {
        let number = |step: &Value, key: &str| step[key].as_f64().expect("a number");
        // The encoders' logs have their trainer's short name for it.
        let learning_rate =
            |step: &Value| step.get("learning_rate").or(step.get("lr")).and_then(Value::as_f64).expect("a number");
        let steps = self.list(&[tag, "traj"]).iter();
        steps
            .map(|step| ReferenceStep {
                loss: number(step, "loss"),
                grad_norm: number(step, "grad_norm"),
                learning_rate: learning_rate(step),
            })
            .collect()
    }

    pub(crate) fn records(&self, path: &[&str]) -> Vec<Record> {
        let text = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
        let record =
            |row: &Value| Record::PromptCompletion { prompt: text(row, "prompt"), completion: text(row, "completion") };
        self.list(path).iter().map(record).collect()
    }

    /// The training set in file order.
    pub(crate) fn data_sft(&self, loss_on: LossOn) -> Vec<TokenExample> {
        let config = EncodeConfig { loss_on, ..EncodeConfig::default() };
        encode_sft(&self.base.tokenizer, &self.records(&["data_sft"]), &config).expect("encodes").examples
    }

    /// The documents of the packed rows, each an example of its own.
    pub(crate) fn packed_documents(&self) -> Vec<TokenExample> {
        let rows = self.list(&["packing", "batch_rows"]).iter();
        let rows = rows.map(|index| &self.list(&["packing", "rows"])[index.as_u64().expect("an index") as usize]);
        rows.flat_map(|row| {
            let mut rest = ids(&row["input_ids"]);
            ids(&row["seq_lengths"]).into_iter().map(move |length| {
                let tail = rest.split_off(length as usize);
                labelled_from(std::mem::replace(&mut rest, tail), 0)
            })
        })
        .collect()
    }
}

fn ids(list: &Value) -> Vec<u32> {
    let list = list.as_array().expect("a list of ids").iter();
    list.map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// `-100` marks what carries no loss.
fn labels(list: &Value) -> Vec<bool> {
    let list = list.as_array().expect("a list of labels").iter();
    list.map(|label| label.as_i64().expect("a label") != -100).collect()
}

pub(crate) fn labelled_from(input_ids: Vec<u32>, start: usize) -> TokenExample {
    let labels = (0..input_ids.len()).map(|i| i >= start).collect();
    TokenExample { input_ids, labels, response_start: start }
}

/// `|a - b| / |b|`.
pub(crate) fn relative_norm(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (difference / b.iter().map(|&b| square(b)).sum::<f64>()).sqrt()
}

/// One line of the table.
pub(crate) struct Row {
    label: String,
    deviation: f64,
    tolerance: f64,
}

impl Row {
    pub(crate) fn new(golden: &Golden, tag: &str, what: &str, deviation: f64, tolerance: f64) -> Self {
        Self { label: format!("{:20} {tag:10} {what}", golden.name), deviation, tolerance }
    }

    /// Equal or not.
    pub(crate) fn exact(golden: &Golden, tag: &str, what: &str, same: bool) -> Self {
        Self::new(golden, tag, &format!("{what}, equal"), if same { 0.0 } else { f64::INFINITY }, 0.0)
    }

    fn holds(&self) -> bool {
        self.deviation <= self.tolerance // false for NaN
    }
}

/// Collects the rows, prints them, and fails at the end if any is out of tolerance.
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new() }
    }

    pub(crate) fn tensor(&mut self, golden: &Golden, tag: &str, tensor: &str, deviation: f64) {
        println!("    {:20} {tag:10} {tensor:48} {deviation:.1e}", golden.name);
    }

    pub(crate) fn row(&mut self, row: Row) {
        let verdict = if row.holds() { "ok" } else { "OUT OF TOLERANCE" };
        println!("{:70} {:9.1e} of {:.0e}  {verdict}", row.label, row.deviation, row.tolerance);
        self.rows.push(row);
    }

    /// The gradients that `method` holds, against those of the set.
    pub(crate) fn gradients<M: Method>(&mut self, golden: &Golden, tag: &str, method: &M, tolerance: f64) {
        let mut worst = 0.0f64;
        for tensor in method.trained() {
            let expected = golden.tensor(&format!("{tag}/grad/base_model.model.{}", tensor.name));
            let grad = method.device().read_f32(&tensor.grad, expected.len());
            let deviation = relative_norm(&grad, &expected);
            self.tensor(golden, tag, &tensor.name, deviation);
            worst = worst.max(deviation);
        }
        self.row(Row::new(golden, tag, "worst gradient, relative norm", worst, tolerance));
    }

    /// Five steps over `data` in file order: loss, gradient norm and learning rate of each, and the weights after them.
    pub(crate) fn trajectory<M: Method>(
        &mut self,
        golden: &Golden,
        tag: &str,
        mut trainer: Trainer<M>,
        data: &[M::Example],
        config: &TrainConfig,
        bounds: Bounds,
        weights: f64,
    ) {
        let steps = golden.trajectory(tag);
        let schedule = LearningRate::new(config.learning_rate, Schedule::Linear, config.warmup_ratio, steps.len())
            .expect("a valid schedule");
        let (mut worst_loss, mut worst_norm, mut worst_rate) = (0.0f64, 0.0f64, 0.0f64);
        let per_step = config.batch_size * config.gradient_accumulation_steps;
        for (index, (expected, examples)) in steps.iter().zip(data.chunks(per_step)).enumerate() {
            let micro_batches: Vec<Vec<&M::Example>> =
                examples.chunks(config.batch_size).map(|batch| batch.iter().collect()).collect();
            let metrics = trainer.step(&micro_batches, index + 1, schedule.at(index)).expect("finite");
            worst_loss = worst_loss.max((metrics.loss - expected.loss).abs() / expected.loss);
            worst_norm = worst_norm.max((f64::from(metrics.grad_norm) - expected.grad_norm).abs() / expected.grad_norm);
            worst_rate = worst_rate.max((f64::from(metrics.learning_rate) - expected.learning_rate).abs());
        }
        // Later steps stand on weights that differ by up to the weights' tolerance.
        self.row(Row::new(golden, tag, "5 steps: loss, relative", worst_loss, 10.0 * bounds.loss));
        let norm_bound = bounds.gradient.max(weights);
        self.row(Row::new(golden, tag, "5 steps: gradient norm, relative", worst_norm, norm_bound));
        self.row(Row::new(golden, tag, "5 steps: learning rate, absolute", worst_rate, 1e-9));

        let mut worst = 0.0f64;
        for tensor in trainer.method().trained() {
            // The accumulated run has no weights of its own in the set: it must end where the whole batch does.
            let tag = if tag == "sft_accum" { "sft_full" } else { tag };
            let expected = golden.tensor(&format!("{tag}/after5/base_model.model.{}", tensor.name));
            let weights = trainer.method().device().read_weight(&tensor.weight);
            assert_eq!(weights.len(), expected.len(), "{}", tensor.name);
            worst = weights.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs())).fold(worst, f64::max);
        }
        self.row(Row::new(golden, tag, "weights after 5 steps, absolute", worst, weights));
    }

    pub(crate) fn finish(self) {
        assert!(!self.rows.is_empty(), "no decoder in the set");
        let failed: Vec<&str> = self.rows.iter().filter(|row| !row.holds()).map(|row| row.label.as_str()).collect();
        assert!(failed.is_empty(), "out of tolerance: {failed:#?}");
    }
}
