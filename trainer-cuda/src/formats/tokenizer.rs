//! Text to token ids and back, with the special tokens and the chat template that belong to a model.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::{PostProcessor, Tokenizer, TruncationDirection};

use super::chat::{self, ChatMessage};
use super::{corrupt, missing, read_file, write_file};
use crate::error::{Result, TrainerError};

/// A model's tokenizer.
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    special: SpecialTokens,
    chat_template: Option<String>,
}

/// The tokens that `tokenizer_config.json` names.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
    pub(super) pad: Option<String>,
    pub(super) unk: Option<String>,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json`, and where they are there `special_tokens_map.json` and
    /// `chat_template.jinja`.
    ///
    /// # Errors
    /// [`TrainerError::Missing`] without `tokenizer.json`; [`TrainerError::Corrupt`] where a file can't be parsed.
    pub fn from_folder(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            return Err(missing(dir, "`tokenizer.json`"));
        }
        let config = optional_json(&dir.join("tokenizer_config.json"))?;
        let map = optional_json(&dir.join("special_tokens_map.json"))?;
        let token = |key: &str| token_content(&config[key]).or_else(|| token_content(&map[key]));
        let special = SpecialTokens {
            bos: token("bos_token"),
            eos: token("eos_token"),
            pad: token("pad_token"),
            unk: token("unk_token"),
        };
        let template_path = dir.join("chat_template.jinja");
        let chat_template = if template_path.is_file() {
            let text = String::from_utf8(read_file(&template_path)?);
            Some(text.map_err(|_| corrupt(&template_path, "it is not UTF-8"))?)
        } else {
            chat_template(&config["chat_template"])
        };
        Self::new(&read_file(&path)?, special, chat_template, &path)
    }

    /// `path` is named in errors.
    pub(super) fn new(
        tokenizer_json: &[u8],
        special: SpecialTokens,
        chat_template: Option<String>,
        path: &Path,
    ) -> Result<Self> {
        let mut tokenizer =
            Tokenizer::from_bytes(tokenizer_json).map_err(|err| corrupt(path, format!("tokenizer: {err}")))?;
        for token in [&special.bos, &special.eos, &special.pad, &special.unk].into_iter().flatten() {
            if tokenizer.token_to_id(token).is_none() {
                return Err(corrupt(path, format!("the special token `{token}` is not in the vocabulary")));
            }
        }
        // A tokenizer.json may carry these from its training; Hugging Face's `tok(text)` switches them off too.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|err| corrupt(path, format!("tokenizer: {err}")))?;
        Ok(Self { tokenizer, special, chat_template })
    }

    /// Token ids of a text, with the special tokens that the tokenizer itself adds, as Hugging Face's `tok(text)`.
    ///
    /// # Errors
    /// [`TrainerError::Encode`]; its index is 0, a caller that has a list puts the text's.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, true).map_err(|err| refused(err.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a text that spells its special tokens itself, as a rendered conversation does.
    ///
    /// # Errors
    /// As [`TextTokenizer::encode`].
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|err| refused(err.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a text, no more than `max_length` of them, as Hugging Face's `tok(text, truncation=True)`: where the
    /// text is longer its end is cut, and the special tokens that follow it stay. True where it was cut.
    ///
    /// # Errors
    /// As [`TextTokenizer::encode`]; [`TrainerError::Config`] where `max_length` leaves no room for text.
    pub fn encode_within(&self, text: &str, max_length: usize) -> Result<(Vec<u32>, bool)> {
        let n_special = self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if max_length <= n_special {
            let what =
                format!("`max_length` {max_length} leaves no room beside the {n_special} special tokens of a text");
            return Err(TrainerError::Config(what));
        }
        let mut content = self.tokenizer.encode_fast(text, false).map_err(|err| refused(err.to_string()))?;
        let cut = content.len() > max_length - n_special;
        content.truncate(max_length - n_special, 0, TruncationDirection::Right);
        let whole = self.tokenizer.post_process(content, None, true).map_err(|err| refused(err.to_string()))?;
        Ok((whole.get_ids().to_vec(), cut))
    }

    /// The text of token ids, special tokens included; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TrainerError::Encode`], as [`TextTokenizer::encode`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, false).map_err(|err| refused(err.to_string()))
    }

    /// The text of an answer's token ids, without special tokens.
    ///
    /// # Errors
    /// [`TrainerError::Encode`], as [`TextTokenizer::encode`].
    pub fn decode_answer(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, true).map_err(|err| refused(err.to_string()))
    }

    /// A conversation as the model's chat template spells it.
    ///
    /// # Errors
    /// [`TrainerError::Encode`] where the model has no template, the template refuses the messages, or it uses a special
    /// token that the tokenizer does not have.
    pub fn render_chat(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String> {
        let Some(template) = &self.chat_template else {
            return Err(refused(
                "the model has no chat template; use the alpaca or prompt-completion format".to_owned(),
            ));
        };
        let tokens = [
            ("bos_token", self.bos_token()),
            ("eos_token", self.eos_token()),
            ("pad_token", self.pad_token()),
            ("unk_token", self.special.unk.as_deref()),
        ];
        if let Some((name, _)) = tokens.iter().find(|(name, token)| token.is_none() && template.contains(name)) {
            return Err(refused(format!(
                "the chat template uses `{name}`, which the tokenizer does not have; use the tokenizer that the template \
                 was made for"
            )));
        }
        let text = chat::render(template, messages, &tokens, add_generation_prompt)
            .map_err(|err| refused(format!("the chat template fails: {err}")))?;
        match chat::marks(template).find(|mark| text.contains(mark) && self.token_id(mark).is_none()) {
            Some(mark) => Err(refused(format!(
                "the chat template writes `{mark}`, which is no token of the tokenizer; use the tokenizer that the \
                 template was made for"
            ))),
            None => Ok(text),
        }
    }

    /// Number of token ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The model's chat template (Jinja).
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The token that begins a text.
    pub fn bos_token(&self) -> Option<&str> {
        self.special.bos.as_deref()
    }

    /// The token that ends a completion.
    pub fn eos_token(&self) -> Option<&str> {
        self.special.eos.as_deref()
    }

    /// The token that fills a batch.
    pub fn pad_token(&self) -> Option<&str> {
        self.special.pad.as_deref()
    }

    /// Id of [`TextTokenizer::bos_token`].
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_token().and_then(|token| self.token_id(token))
    }

    /// Id of [`TextTokenizer::eos_token`].
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_token().and_then(|token| self.token_id(token))
    }

    /// Id of [`TextTokenizer::pad_token`].
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_token().and_then(|token| self.token_id(token))
    }

    /// Id of a token by its spelling in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// One more than the highest id that [`TextTokenizer::encode`] can give.
    pub(super) fn id_bound(&self) -> usize {
        self.tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// `tokenizer.json` and `tokenizer_config.json` for a tokenizer that has no folder of its own.
    pub(super) fn write_files(&self, dir: &Path, model_max_length: usize) -> Result<()> {
        let path = dir.join("tokenizer.json");
        let tokenizer_json = self.tokenizer.to_string(false).map_err(|err| refused(err.to_string()))?;
        write_file(&path, tokenizer_json)?;
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model_max_length,
            "clean_up_tokenization_spaces": false,
        });
        let named = [
            ("bos_token", self.bos_token()),
            ("eos_token", self.eos_token()),
            ("pad_token", self.pad_token()),
            ("unk_token", self.special.unk.as_deref()),
            ("chat_template", self.chat_template()),
        ];
        for (key, text) in named {
            if let Some(text) = text {
                config[key] = text.into();
            }
        }
        write_file(&dir.join("tokenizer_config.json"), format!("{config:#}\n"))
    }
}

fn refused(what: String) -> TrainerError {
    TrainerError::Encode { index: 0, what }
}

/// Longest text in tokens that `tokenizer_config.json` states; some state 10^30, for none.
pub(super) fn model_max_length(dir: &Path) -> Result<Option<usize>> {
    let stated = optional_json(&dir.join("tokenizer_config.json"))?["model_max_length"].as_f64();
    Ok(stated.filter(|&length| (1.0..1e9).contains(&length)).map(|length| length as usize))
}

/// `null` where there is no such file.
pub(super) fn optional_json(path: &Path) -> Result<Value> {
    if !path.is_file() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&read_file(path)?).map_err(|err| corrupt(path, format!("not JSON: {err}")))
}

/// A token is a string, or an object from the days of slow tokenizers.
fn token_content(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
}

/// A template is a string, or a list of named ones.
fn chat_template(template: &Value) -> Option<String> {
    let named = || template.as_array()?.iter().find(|entry| entry["name"] == "default")?["template"].as_str();
    template.as_str().or_else(named).map(str::to_owned)
}
