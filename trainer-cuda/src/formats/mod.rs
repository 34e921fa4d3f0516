//! Models, adapters and tokenizers on disk.

pub mod chat;
mod copying;
pub mod gguf;
mod gguf_blocks;
mod gguf_decoder;
mod gguf_header;
pub mod gguf_lora;
mod gguf_tokenizer;
mod gguf_writer;
mod hf_config;
mod hf_encoder_config;
mod hf_encoder_tensors;
mod hf_folder;
mod hub_cache;
pub mod peft;
mod peft_adapter;
mod sentence_files;
mod stored;
pub mod text_stream;
pub mod tokenizer;

pub use chat::ChatMessage;
pub use copying::ModelFiles;
pub use gguf_blocks::BlockType;
pub use peft_adapter::{Adapter, Update};
pub use stored::StoredTensor;
pub use tokenizer::TextTokenizer;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use memmap2::Mmap;
use safetensors::tensor::Dtype;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::{DecoderConfig, EncoderConfig, ModelConfig};
use crate::error::{Result, TrainerError};

/// A tensor in host memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Extent of each dimension, outermost first: `[out, in]` for a linear layer.
    pub shape: Vec<usize>,
    /// The values; as many as the product of `shape`.
    pub data: Vec<f32>,
}

/// A weight of a model, before it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Its Hugging Face name.
    pub name: String,
    /// Extent of each dimension, outermost first.
    pub shape: Vec<usize>,
    /// How it is stored; f32 where that is a GGUF's quantised block.
    pub dtype: Dtype,
}

/// A model to train: its constants, its tokenizer, and its weights by their Hugging Face names.
pub struct BaseModel {
    /// The model's constants.
    pub config: ModelConfig,
    /// Text to token ids and back.
    pub tokenizer: TextTokenizer,
    path: PathBuf,
    /// What was opened: the file, or the folder of the transformer.
    location: PathBuf,
    source: Box<dyn Source>,
    /// Once it is known: 0.3 s for each half gigabyte.
    sha256: Mutex<Option<String>>,
}

impl BaseModel {
    /// Opens a Hugging Face or sentence-transformers folder, a `.gguf` file, or a model of the hub cache by its name (`HuggingFaceTB/SmolLM-135M`).
    /// Weights are mapped, not read.
    ///
    /// # Errors
    /// [`TrainerError::ModelNotFound`] or [`TrainerError::NotInHubCache`] where `path` is none of these; [`TrainerError::Corrupt`], [`TrainerError::Missing`],
    /// [`TrainerError::UnsupportedArchitecture`] or [`TrainerError::Unsupported`] for what it holds.
    pub fn open(path: &Path) -> Result<Self> {
        let path = &sentence_files::transformer_folder(path)?;
        let mut location = path.clone();
        let (config, tokenizer, source) = if path.join("config.json").is_file() {
            hf_folder::open(path)?
        } else if path.is_file() && (path.extension().is_some_and(|e| e == "gguf") || starts_as_gguf(path)) {
            gguf_decoder::open(path)?
        } else if hub_cache::is_hub_name(path) {
            let cache = hub_cache::folder();
            match hub_cache::snapshot(&cache, path) {
                Some(snapshot) => {
                    location = sentence_files::transformer_folder(&snapshot)?;
                    hf_folder::open(&location)?
                }
                None => return Err(TrainerError::NotInHubCache { name: path.display().to_string(), cache }),
            }
        } else {
            return Err(TrainerError::ModelNotFound { path: path.to_owned() });
        };
        if tokenizer.id_bound() > config.vocab_size() {
            let (ids, rows) = (tokenizer.id_bound(), config.vocab_size());
            return Err(corrupt(path, format!("the tokenizer has {ids} ids, the embedding table {rows} rows")));
        }
        Ok(Self { config, tokenizer, path: path.to_owned(), location, source, sha256: Mutex::default() })
    }

    /// One weight as f32, by its Hugging Face name: `model.layers.0.self_attn.q_proj.weight`.
    ///
    /// # Errors
    /// [`TrainerError::Missing`] where the model has no such tensor (`lm_head.weight` of a tied model),
    /// [`TrainerError::Unsupported`] where its element type is not a float that this build reads.
    pub fn tensor(&self, hf_name: &str) -> Result<HostTensor> {
        Ok(self.source.stored(hf_name)?.to_host())
    }

    /// One weight as the file stores it, by its Hugging Face name; a GGUF's rows are in Hugging Face's order.
    ///
    /// # Errors
    /// Those of [`BaseModel::tensor`].
    pub fn stored(&self, hf_name: &str) -> Result<StoredTensor<'_>> {
        self.source.stored(hf_name)
    }

    /// Every weight of the model, by name.
    pub fn tensors(&self) -> Vec<TensorInfo> {
        let mut tensors = self.source.tensors();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        tensors
    }

    /// The constants of a causal language model.
    ///
    /// # Errors
    /// [`TrainerError::WrongKind`] for an encoder.
    pub fn decoder(&self) -> Result<&DecoderConfig> {
        match &self.config {
            ModelConfig::Decoder(config) => Ok(config),
            ModelConfig::Encoder(_) => Err(self.wrong_kind("a text embedding model", "a causal language model")),
        }
    }

    /// The constants of a text embedding model.
    ///
    /// # Errors
    /// [`TrainerError::WrongKind`] for a decoder.
    pub fn encoder(&self) -> Result<&EncoderConfig> {
        match &self.config {
            ModelConfig::Encoder(config) => Ok(config),
            ModelConfig::Decoder(_) => Err(self.wrong_kind("a causal language model", "a text embedding model")),
        }
    }

    fn wrong_kind(&self, is: &'static str, needs: &'static str) -> TrainerError {
        let architecture = self.config.architecture().to_owned();
        TrainerError::WrongKind { path: self.path.clone(), architecture, is, needs }
    }

    /// The path that was opened; of a sentence-transformers folder, where its transformer lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same model under another name, which is what an adapter's configuration calls its base.
    #[must_use]
    pub fn named(self, name: &Path) -> Self {
        Self { path: name.to_owned(), ..self }
    }

    /// What a copy of the model takes, and what would be opened in it: the file itself, or the files of a folder by their paths
    /// within it. Of a sentence-transformers folder, that of its modules.
    ///
    /// # Errors
    /// [`TrainerError::Io`] where a folder can't be listed.
    pub fn files(&self) -> Result<ModelFiles> {
        copying::files(&self.location)
    }

    /// Hex SHA-256 of what was opened: of the file for a GGUF; for a folder, what
    /// `sha256sum config.json *.safetensors | sha256sum` prints in it, over the weight files in use.
    ///
    /// # Errors
    /// [`TrainerError::Io`] where a file can't be read.
    pub fn sha256(&self) -> Result<String> {
        // A second caller waits for the first.
        let mut known = self.sha256.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = &*known {
            return Ok(digest.clone());
        }
        let digest = self.source.sha256()?;
        *known = Some(digest.clone());
        Ok(digest)
    }

    /// A `config.json` that transformers accepts: the folder's own, or one built from the GGUF's metadata.
    pub fn hf_config(&self) -> Value {
        self.source.hf_config()
    }

    /// `generation_config.json`: how the model likes to be sampled. Null where it says nothing.
    pub fn generation_config(&self) -> Value {
        self.source.generation_config()
    }

    /// The tokens that end an answer, ascending: those of `config.json`, of `generation_config.json`, and the
    /// tokenizer's own, which training appends.
    pub fn end_token_ids(&self) -> Vec<u32> {
        let configs = [self.source.hf_config(), self.source.generation_config()];
        let listed = configs.iter().flat_map(|config| match &config["eos_token_id"] {
            Value::Array(ids) => ids.clone(),
            id => vec![id.clone()],
        });
        let ids = listed.filter_map(|id| u32::try_from(id.as_u64()?).ok()).chain(self.tokenizer.eos_id());
        BTreeSet::from_iter(ids).into_iter().collect()
    }

    /// Writes the tokenizer into `dir` so that `AutoTokenizer.from_pretrained(dir)` gives the same tokenizer.
    ///
    /// # Errors
    /// [`TrainerError::Io`] where a file can't be read or written.
    pub fn write_tokenizer_files(&self, dir: &Path) -> Result<()> {
        self.source.write_tokenizer_files(&self.tokenizer, dir)
    }
}

/// Where a model's weights and files come from.
trait Source: Send + Sync {
    fn stored(&self, hf_name: &str) -> Result<StoredTensor<'_>>;
    fn sha256(&self) -> Result<String>;
    fn hf_config(&self) -> Value;
    /// `generation_config.json`; null where there is none.
    fn generation_config(&self) -> Value {
        Value::Null
    }
    /// Every weight, under its Hugging Face name, as it is stored.
    fn tensors(&self) -> Vec<TensorInfo>;
    fn write_tokenizer_files(&self, tokenizer: &TextTokenizer, dir: &Path) -> Result<()>;
}

/// What a format's `open` gives.
type Opened = (ModelConfig, TextTokenizer, Box<dyn Source>);

fn starts_as_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == gguf::MAGIC
}

fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(io("read", path))?;
    // SAFETY: the mapping is read-only and private to this process. Another process that truncates the file
    // meanwhile would end this one with SIGBUS, as it would any program that maps its models.
    unsafe { Mmap::map(&file) }.map_err(io("read", path))
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(io("read", path))
}

fn write_file(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, bytes).map_err(io("write", path))
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> TrainerError + 'a {
    move |source| TrainerError::Io { action, path: path.to_owned(), source }
}

fn corrupt(path: &Path, what: impl Into<String>) -> TrainerError {
    TrainerError::Corrupt { path: path.to_owned(), what: what.into() }
}

fn missing(path: &Path, what: impl Into<String>) -> TrainerError {
    TrainerError::Missing { path: path.to_owned(), what: what.into() }
}

fn unsupported(path: &Path, what: impl Into<String>) -> TrainerError {
    TrainerError::Unsupported { path: path.to_owned(), what: what.into() }
}

/// Each key-value head serves the same number of attention heads.
fn check_heads(heads: usize, kv_heads: usize, path: &Path) -> Result<()> {
    if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(corrupt(path, format!("{heads} attention heads cannot share {kv_heads} key-value heads")));
    }
    Ok(())
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Hex SHA-256 of a mapped file, of which no more than a piece is in memory at a time.
fn map_sha256(map: &Mmap) -> String {
    const PIECE: usize = 4 << 20;
    let mut digest = Sha256::new();
    for start in (0..map.len()).step_by(PIECE) {
        let piece = start..map.len().min(start + PIECE);
        digest.update(&map[piece.clone()]);
        stored::release(map, piece);
    }
    hex(&digest.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The shortest decimal that reads back as this f32: 1e-5, not 9.999999747378752e-6.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}
