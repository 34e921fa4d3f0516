//! A model as Hugging Face saves it: `config.json`, one or several safetensors files, tokenizer files.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};
use serde_json::Value;

use super::hf_encoder_tensors::Place;
use super::sentence_files::SentenceModules;
use super::tokenizer::{self, TextTokenizer, optional_json};
use super::{
    BlockType, Opened, Source, StoredTensor, TensorInfo, corrupt, hf_config, hf_encoder_config, hf_encoder_tensors, io,
    map_file, map_sha256, missing, read_file, sha256_hex, unsupported,
};
use crate::config::{EncoderConfig, ModelConfig};
use crate::error::Result;

const WEIGHTS: &str = "model.safetensors";
const GENERATION_CONFIG: &str = "generation_config.json";
const INDEX: &str = "model.safetensors.index.json";

/// What makes up a tokenizer; the first is required.
const TOKENIZER_FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

pub(super) fn open(dir: &Path) -> Result<Opened> {
    let path = dir.join("config.json");
    let config_bytes = read_file(&path)?;
    let config_json =
        serde_json::from_slice(&config_bytes).map_err(|err| corrupt(&path, format!("not JSON: {err}")))?;
    let config = match hf_encoder_config::is_encoder(&config_json) {
        true => {
            let sentence = SentenceModules::read(dir)?;
            let tokenizer_max_length = tokenizer::model_max_length(dir)?;
            ModelConfig::Encoder(hf_encoder_config::parse(&config_json, &path, &sentence, tokenizer_max_length)?)
        }
        false => ModelConfig::Decoder(hf_config::parse(&config_json, &path)?),
    };
    let tokenizer = TextTokenizer::from_folder(dir)?;
    let generation_config = optional_json(&dir.join(GENERATION_CONFIG))?;
    let shards = shard_names(dir)?.iter().map(|name| Shard::open(dir, name)).collect::<Result<Vec<_>>>()?;
    let encoder = match &config {
        ModelConfig::Encoder(config) => Some(config.clone()),
        ModelConfig::Decoder(_) => None,
    };
    let folder = HfFolder { dir: dir.to_owned(), config_bytes, config_json, generation_config, encoder, shards };
    Ok((config, tokenizer, Box::new(folder)))
}

struct HfFolder {
    dir: PathBuf,
    config_bytes: Vec<u8>,
    config_json: Value,
    generation_config: Value,
    /// `None` for a decoder.
    encoder: Option<EncoderConfig>,
    shards: Vec<Shard>, // sorted by name
}

struct Shard {
    name: String,
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    data_start: usize,
}

impl Source for HfFolder {
    fn stored(&self, hf_name: &str) -> Result<StoredTensor<'_>> {
        let places = match &self.encoder {
            Some(encoder) => hf_encoder_tensors::places(encoder.names, hf_name),
            None => vec![Place { name: hf_name.to_owned(), block: None }],
        };
        let found = places.iter().find_map(|place| {
            self.shards.iter().find_map(|shard| Some((shard, shard.metadata.info(&place.name)?, place.block)))
        });
        let (shard, info, part) = found.ok_or_else(|| missing(&self.dir, format!("tensor `{hf_name}`")))?;
        let (mut start, mut end) = info.data_offsets;
        let mut shape = info.shape.clone();
        if let Some((i, n)) = part {
            if shape.is_empty() || !shape[0].is_multiple_of(n) {
                return Err(corrupt(
                    &shard.path,
                    format!("tensor of `{hf_name}` has shape {shape:?}, not {n} blocks of rows"),
                ));
            }
            shape[0] /= n;
            let len = (end - start) / n;
            (start, end) = (start + len * i, start + len * (i + 1));
        }
        let block = match info.dtype {
            Dtype::F32 => BlockType::F32,
            Dtype::F16 => BlockType::F16,
            Dtype::BF16 => BlockType::BF16,
            dtype => return Err(unsupported(&shard.path, format!("type `{dtype:?}` of tensor `{hf_name}`"))),
        };
        let bytes = shard.data_start + start..shard.data_start + end;
        Ok(StoredTensor::mapped(shape, block, &shard.map, bytes))
    }

    fn sha256(&self) -> Result<String> {
        let mut list = format!("{}  config.json\n", sha256_hex(&self.config_bytes));
        for shard in &self.shards {
            list += &format!("{}  {}\n", map_sha256(&shard.map), shard.name);
        }
        Ok(sha256_hex(list.as_bytes()))
    }

    fn hf_config(&self) -> Value {
        match &self.encoder {
            Some(encoder) => hf_encoder_config::native(&self.config_json, encoder),
            None => self.config_json.clone(),
        }
    }

    fn generation_config(&self) -> Value {
        self.generation_config.clone()
    }

    fn tensors(&self) -> Vec<TensorInfo> {
        let stored = self.shards.iter().flat_map(|shard| shard.metadata.tensors());
        stored.map(|(name, info)| TensorInfo { name, shape: info.shape.clone(), dtype: info.dtype }).collect()
    }

    fn write_tokenizer_files(&self, _: &TextTokenizer, dir: &Path) -> Result<()> {
        for name in TOKENIZER_FILES {
            let (from, to) = (self.dir.join(name), dir.join(name));
            if from.is_file() {
                fs::copy(&from, &to).map_err(io("write", &to))?;
            }
        }
        Ok(())
    }
}

impl Shard {
    fn open(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        if !path.is_file() {
            return Err(missing(dir, format!("`{name}`")));
        }
        let map = map_file(&path)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|err| corrupt(&path, err.to_string()))?;
        // The header's length comes before it, in 8 bytes.
        Ok(Self { name: name.to_owned(), path, map, metadata, data_start: 8 + header })
    }
}

/// `model.safetensors`, or the files that the index names.
fn shard_names(dir: &Path) -> Result<BTreeSet<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let path = dir.join(INDEX);
    if dir.join(WEIGHTS).is_file() || !path.is_file() {
        return Ok([WEIGHTS.to_owned()].into());
    }
    let index: Index = serde_json::from_slice(&read_file(&path)?).map_err(|err| corrupt(&path, err.to_string()))?;
    let names: BTreeSet<_> = index.weight_map.into_values().collect();
    // An index comes with the model, from anywhere: it must not reach outside its folder.
    match names.iter().find(|name| Path::new(name).file_name().is_none_or(|file| file != name.as_str())) {
        Some(name) => Err(corrupt(&path, format!("`{name}` is not a file of this folder"))),
        None => Ok(names),
    }
}
