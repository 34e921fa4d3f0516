"""convert_gguf.py MODEL.gguf FOLDER: a `llama` GGUF with a byte-level BPE tokenizer as a Hugging Face folder in f32.

Written apart from the Rust reader on purpose: only the dequantisation is the `gguf` package's. It knows the
`smollm` and `gpt-2` pre-tokenisers and plain rotary embeddings, which is what SmolLM2 needs, and refuses others.
"""

import argparse
import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    reader = gguf.GGUFReader(args.model)
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    if metadata["general.architecture"] != "llama":
        sys.exit(f"{args.model}: architecture {metadata['general.architecture']}, not llama")
    if any(key.startswith("llama.rope.scaling") for key in metadata) or any(t.name == "rope_freqs.weight" for t in reader.tensors):
        sys.exit(f"{args.model}: rope scaling is not converted")

    args.folder.mkdir(parents=True, exist_ok=True)
    tensors = read_tensors(reader, metadata)
    save_file(tensors, args.folder / "model.safetensors", metadata={"format": "pt"})
    config = model_config(metadata, tensors)
    (args.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_tokenizer(metadata, args.folder)
    print(f"{args.folder}: {len(tensors)} tensors, {sum(t.size for t in tensors.values()) / 1e6:.1f} M parameters")


def read_tensors(reader, metadata):
    heads = metadata["llama.attention.head_count"]
    kv_heads = metadata.get("llama.attention.head_count_kv", heads)
    tensors = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values = values.reshape([int(dim) for dim in reversed(tensor.shape)])
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{BLOCK[parts[2]]}.{parts[3]}"
            if parts[2] in ("attn_q", "attn_k"):
                values = unpermute(values, heads if parts[2] == "attn_q" else kv_heads)
        else:
            name = f"{OUTER[parts[0]]}.{parts[1]}"
        tensors[name] = np.ascontiguousarray(values)
    return tensors


def unpermute(weights, heads):
    """Rotated pairs from neighbours (llama.cpp) to half a head apart (Hugging Face)."""
    rows, columns = weights.shape
    return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def model_config(metadata, tensors):
    heads = metadata["llama.attention.head_count"]
    hidden = metadata["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": metadata["llama.feed_forward_length"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get("llama.attention.head_count_kv", heads),
        "head_dim": metadata.get("llama.attention.key_length", hidden // heads),
        "vocab_size": tensors["model.embed_tokens.weight"].shape[0],
        "max_position_embeddings": metadata["llama.context_length"],
        # Stored as f32; the shortest decimal that reads back as it.
        "rms_norm_eps": float(str(np.float32(metadata["llama.attention.layer_norm_rms_epsilon"]))),
        "rope_theta": metadata.get("llama.rope.freq_base", 10000.0),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
        "dtype": "float32",
    }


def write_tokenizer(metadata, folder):
    if metadata["tokenizer.ggml.model"] != "gpt2" or metadata.get("tokenizer.ggml.add_bos_token"):
        sys.exit("only a byte-level BPE tokenizer without BOS is converted")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    pre = {
        "gpt-2": byte_level,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
    }[metadata["tokenizer.ggml.pre"]]
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, metadata["tokenizer.ggml.token_type"]) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))

    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": metadata["llama.context_length"]}
    for name, key in [("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")]:
        if f"tokenizer.ggml.{key}_token_id" in metadata:
            config[name] = tokens[metadata[f"tokenizer.ggml.{key}_token_id"]]
    if "tokenizer.chat_template" in metadata:
        config["chat_template"] = metadata["tokenizer.chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
