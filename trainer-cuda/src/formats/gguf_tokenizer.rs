//! The byte-level BPE tokenizer in a GGUF's metadata, rebuilt as the `tokenizer.json` that it came from.
//!
//! A GGUF stores tokens, merges and the name of a pre-tokeniser; the rules behind each name are those of the
//! original model's `tokenizer.json`.

use serde_json::{Map, Value, json};

use super::gguf::Gguf;
use super::tokenizer::{SpecialTokens, TextTokenizer};
use super::{corrupt, unsupported};
use crate::error::Result;

// `tokenizer.ggml.token_type` (llama.h, `enum llama_token_type`).
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

// Llama 3's and Qwen2's splits differ in how many digits stay together.
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn read(gguf: &Gguf) -> Result<TextTokenizer> {
    let model = gguf.required("tokenizer.ggml.model", gguf.string("tokenizer.ggml.model")?)?;
    if model != "gpt2" {
        return Err(unsupported(gguf.path(), format!("tokenizer model `{model}` (`gpt2`, byte-level BPE, is read)")));
    }
    let rules = rules(gguf)?;
    let tokens = gguf.required("tokenizer.ggml.tokens", gguf.strings("tokenizer.ggml.tokens")?)?;
    let special = SpecialTokens {
        bos: special_token(gguf, &tokens, "tokenizer.ggml.bos_token_id")?,
        eos: special_token(gguf, &tokens, "tokenizer.ggml.eos_token_id")?,
        pad: special_token(gguf, &tokens, "tokenizer.ggml.padding_token_id")?,
        unk: special_token(gguf, &tokens, "tokenizer.ggml.unknown_token_id")?,
    };
    let add_bos = gguf.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(rules.add_bos);
    let add_eos = gguf.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    let around = (special.bos.as_deref().filter(|_| add_bos), special.eos.as_deref().filter(|_| add_eos));

    let tokenizer_json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(gguf, &tokens)?,
        "normalizer": rules.normalizer,
        "pre_tokenizer": rules.pre_tokenizer,
        "post_processor": post_processor(around, &tokens),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": rules.ignore_merges,
            "vocab": vocab(gguf, &tokens)?,
            "merges": merges(gguf)?,
        },
    });
    let chat_template = gguf.string("tokenizer.chat_template")?.map(str::to_owned);
    TextTokenizer::new(tokenizer_json.to_string().as_bytes(), special, chat_template, gguf.path())
}

/// What a pre-tokeniser's name stands for.
struct Rules {
    normalizer: Value,
    pre_tokenizer: Value,
    ignore_merges: bool,
    /// Where the file doesn't say.
    add_bos: bool,
}

fn rules(gguf: &Gguf) -> Result<Rules> {
    let plain = |pre_tokenizer| Rules { normalizer: Value::Null, pre_tokenizer, ignore_merges: false, add_bos: false };
    let split =
        |regex| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let digits = json!({ "type": "Digits", "individual_digits": true });
    Ok(match gguf.string("tokenizer.ggml.pre")?.unwrap_or("default") {
        "default" | "gpt-2" => plain(byte_level(true)),
        "smollm" => plain(sequence(digits, byte_level(true))),
        "llama-bpe" | "llama3" | "llama-v3" => {
            Rules { ignore_merges: true, add_bos: true, ..plain(sequence(split(LLAMA3_SPLIT), byte_level(false))) }
        }
        "qwen2" => {
            Rules { normalizer: json!({ "type": "NFC" }), ..plain(sequence(split(QWEN2_SPLIT), byte_level(false))) }
        }
        name => {
            let what = format!("pre-tokeniser `{name}` (`gpt-2`, `smollm`, `llama-bpe` and `qwen2` are read)");
            return Err(unsupported(gguf.path(), what));
        }
    })
}

fn sequence(first: Value, second: Value) -> Value {
    json!({ "type": "Sequence", "pretokenizers": [first, second] })
}

fn byte_level(use_regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
}

fn vocab(gguf: &Gguf, tokens: &[&str]) -> Result<Map<String, Value>> {
    let mut vocab = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(first) = vocab.insert((*token).to_owned(), id.into()) {
            return Err(corrupt(gguf.path(), format!("tokens {first} and {id} are both spelled `{token}`")));
        }
    }
    Ok(vocab)
}

fn merges(gguf: &Gguf) -> Result<Vec<[&str; 2]>> {
    let merges = gguf.required("tokenizer.ggml.merges", gguf.strings("tokenizer.ggml.merges")?)?;
    let pairs = merges.into_iter().enumerate().map(|(rank, merge)| match merge.split_once(' ') {
        Some((left, right)) => Ok([left, right]),
        None => Err(corrupt(gguf.path(), format!("merge {rank}, `{merge}`, is not two tokens"))),
    });
    pairs.collect()
}

fn added_tokens(gguf: &Gguf, tokens: &[&str]) -> Result<Vec<Value>> {
    let kinds = gguf.i32s("tokenizer.ggml.token_type")?.unwrap_or_default();
    if !kinds.is_empty() && kinds.len() != tokens.len() {
        return Err(corrupt(gguf.path(), format!("{} token types for {} tokens", kinds.len(), tokens.len())));
    }
    let added = tokens.iter().zip(kinds).enumerate().filter(|(_, (_, kind))| matches!(*kind, CONTROL | USER_DEFINED));
    Ok(added
        .map(|(id, (content, kind))| {
            json!({
                "id": id,
                "content": content,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": kind == CONTROL,
            })
        })
        .collect())
}

fn special_token(gguf: &Gguf, tokens: &[&str], key: &str) -> Result<Option<String>> {
    let Some(id) = gguf.usize(key)? else { return Ok(None) };
    match tokens.get(id) {
        Some(token) => Ok(Some((*token).to_owned())),
        None => Err(corrupt(gguf.path(), format!("metadata `{key}` is {id}, but there are {} tokens", tokens.len()))),
    }
}

/// Puts the tokens that the model expects before and after every text.
fn post_processor((before, after): (Option<&str>, Option<&str>), tokens: &[&str]) -> Value {
    if before.is_none() && after.is_none() {
        return Value::Null;
    }
    let special = |token: &str, text: u32| json!({ "SpecialToken": { "id": token, "type_id": text } });
    let around = |id: &str, text: u32| {
        let sequence = json!({ "Sequence": { "id": id, "type_id": text } });
        let (before, after) = (before.map(|token| special(token, text)), after.map(|token| special(token, text)));
        before.into_iter().chain([sequence]).chain(after).collect::<Vec<_>>()
    };
    let ids = tokens.iter().enumerate().filter(|(_, token)| [before, after].contains(&Some(**token)));
    let special_tokens: Map<_, _> =
        ids.map(|(id, token)| ((*token).to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }))).collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": special_tokens,
    })
}
