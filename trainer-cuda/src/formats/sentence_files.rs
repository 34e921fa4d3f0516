//! The files that sentence-transformers keeps beside a model: which modules follow it, and how long a text may be.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::tokenizer::optional_json;
use super::{corrupt, io, missing, read_file, unsupported, write_file};
use crate::config::{EncoderConfig, Pooling};
use crate::error::Result;

const MODULES: &str = "modules.json";
const POOLING: &str = "1_Pooling";
const NORMALIZE: &str = "2_Normalize";

/// What follows the transformer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SentenceModules {
    pub(super) pooling: Pooling,
    pub(super) normalize: bool,
    /// Longest text in tokens, where a file says so.
    pub(super) max_seq_length: Option<usize>,
}

/// Whether it is a sentence-transformers folder.
pub(super) fn has_modules(folder: &Path) -> bool {
    folder.join(MODULES).is_file()
}

/// The folder of the transformer itself: `folder`, or the sub-folder that its `modules.json` names.
pub(super) fn transformer_folder(folder: &Path) -> Result<PathBuf> {
    if folder.join("config.json").is_file() || !folder.join(MODULES).is_file() {
        return Ok(folder.to_owned());
    }
    Ok(folder.join(Modules::read(folder)?.transformer))
}

impl SentenceModules {
    /// Reads the modules around the transformer in `folder`. Without `modules.json`, here or above, token states are
    /// averaged and not scaled, as sentence-transformers does with a bare model.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let max_seq_length = max_seq_length(folder)?;
        let Some((root, modules)) = Modules::around(folder)? else {
            return Ok(Self { pooling: Pooling::Mean, normalize: false, max_seq_length });
        };
        let pooling = match &modules.pooling {
            Some(path) => pooling(&root.join(path).join("config.json"))?,
            None => return Err(missing(&root.join(MODULES), "a `Pooling` module")),
        };
        Ok(Self { pooling, normalize: modules.normalize, max_seq_length })
    }
}

/// Writes the files by which `SentenceTransformer(folder)` pools and normalises as `config` says, in the spelling that
/// every release since 2.0 reads.
pub(super) fn write(folder: &Path, config: &EncoderConfig) -> Result<()> {
    let module = |idx: usize, path: &str, kind: &str| json!({ "idx": idx, "name": idx.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}") });
    let mut modules = vec![module(0, "", "Transformer"), module(1, POOLING, "Pooling")];
    let mut folders = vec![POOLING];
    if config.normalize {
        modules.push(module(2, NORMALIZE, "Normalize"));
        folders.push(NORMALIZE);
    }
    for name in folders {
        let path = folder.join(name);
        fs::create_dir_all(&path).map_err(io("create", &path))?;
    }
    let pooling = json!({
        "word_embedding_dimension": config.hidden_size,
        "pooling_mode_cls_token": config.pooling == Pooling::Cls,
        "pooling_mode_mean_tokens": config.pooling == Pooling::Mean,
        "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
    });
    let transformer = json!({ "max_seq_length": config.max_length, "do_lower_case": false });
    let write = |name: &str, value: &Value| write_file(&folder.join(name), format!("{value:#}\n"));
    write(MODULES, &Value::Array(modules))?;
    write(&format!("{POOLING}/config.json"), &pooling)?;
    write("sentence_bert_config.json", &transformer)
}

/// `modules.json`: paths are relative to its folder.
struct Modules {
    transformer: PathBuf,
    pooling: Option<PathBuf>,
    normalize: bool,
}

impl Modules {
    /// The list that names `folder` as its transformer, with its own folder.
    fn around(folder: &Path) -> Result<Option<(PathBuf, Self)>> {
        if folder.join(MODULES).is_file() {
            return Ok(Some((folder.to_owned(), Self::read(folder)?)));
        }
        let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else { return Ok(None) };
        if !parent.join(MODULES).is_file() {
            return Ok(None);
        }
        let modules = Self::read(parent)?;
        Ok((modules.transformer == Path::new(name)).then(|| (parent.to_owned(), modules)))
    }

    fn read(folder: &Path) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Module {
            r#type: String,
            path: PathBuf,
        }
        let path = folder.join(MODULES);
        let list: Vec<Module> =
            serde_json::from_slice(&read_file(&path)?).map_err(|err| corrupt(&path, err.to_string()))?;
        let mut modules = list.into_iter();
        let mut next = |kinds: &[&str]| -> Result<Option<(PathBuf, String)>> {
            let Some(Module { r#type, path: at }) = modules.next() else { return Ok(None) };
            // The module path is the releases' own business: `models.Pooling`, `sentence_transformer.modules.pooling.Pooling`.
            let kind = r#type.rsplit('.').next().unwrap_or_default().to_owned();
            if !kinds.contains(&kind.as_str()) {
                return Err(unsupported(&path, format!("the sentence-transformers module `{type}`")));
            }
            // The list comes with the model, from anywhere: it must not reach outside its folder.
            if at.components().any(|part| !matches!(part, Component::Normal(_))) {
                return Err(corrupt(&path, format!("`{}` is not inside this folder", at.display())));
            }
            Ok(Some((at, kind)))
        };
        let (transformer, _) = next(&["Transformer"])?.ok_or_else(|| missing(&path, "a `Transformer` module"))?;
        let pooling = next(&["Pooling"])?.map(|(path, _)| path);
        let normalize = next(&["Normalize"])?.is_some();
        next(&[])?;
        Ok(Self { transformer, pooling, normalize })
    }
}

/// The one mode that is on, from the keys before sentence-transformers 6 (`pooling_mode_mean_tokens: true`) or since
/// (`pooling_mode: mean`).
fn pooling(path: &Path) -> Result<Pooling> {
    let config: Value = serde_json::from_slice(&read_file(path)?).map_err(|err| corrupt(path, err.to_string()))?;
    let modes: Vec<&str> = match &config["pooling_mode"] {
        Value::Null => {
            let switches = config.as_object().into_iter().flatten();
            let on = switches.filter(|(_, value)| **value == Value::Bool(true));
            on.filter_map(|(key, _)| key.strip_prefix("pooling_mode_")).collect()
        }
        Value::Array(modes) => modes.iter().filter_map(Value::as_str).collect(),
        mode => mode.as_str().into_iter().collect(),
    };
    match modes[..] {
        // sentence-transformers takes the mean where nothing is on.
        [] | ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::Cls),
        _ => Err(unsupported(path, format!("the pooling mode `{}`", modes.join(" + ")))),
    }
}

/// `sentence_bert_config.json`, under any of the names that sentence-transformers looks for.
fn max_seq_length(folder: &Path) -> Result<Option<usize>> {
    let kinds = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"];
    let names = kinds.map(|kind| format!("sentence_{kind}_config.json"));
    let Some(path) = names.iter().map(|name| folder.join(name)).find(|path| path.is_file()) else { return Ok(None) };
    let config = optional_json(&path)?;
    if config["do_lower_case"] == Value::Bool(true) {
        return Err(unsupported(&path, "`do_lower_case: true` outside the tokenizer"));
    }
    Ok(config["max_seq_length"].as_u64().map(|length| length as usize))
}
