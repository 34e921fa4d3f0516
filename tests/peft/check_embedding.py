"""check_embedding.py --adapter DIR [--base HF_FOLDER] [--embeddings FILE]: our embeddings against PEFT's and sentence-transformers'.

README.md beside this says what is read, what is compared and what the exit codes mean.
"""

import argparse
import json
import sys
from pathlib import Path

import check_adapter
import torch
from check_adapter import AutoTokenizer, check_tensors, get_peft_model_state_dict, load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

TOLERANCE = 1e-3  # f32 on both sides: what differs is the order of sums over the layers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--base", type=Path, help="default: the base that adapter_config.json names")
    parser.add_argument("--embeddings", type=Path, help='lines of {"text", "embedding"}; default: ADAPTER/embeddings.jsonl')
    args = parser.parse_args()
    try:
        lines = (args.embeddings or args.adapter / "embeddings.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        texts, ours = [row["text"] for row in rows], torch.tensor([row["embedding"] for row in rows])
        config = json.loads((args.adapter / "adapter_config.json").read_text())
        base = args.base or Path(config["base_model_name_or_path"])
        max_length = json.loads((args.adapter / "sentence_bert_config.json").read_text())["max_seq_length"]
        saved = load_file(args.adapter / "adapter_model.safetensors")
        model, problems = check_adapter.load(base, args.adapter, AutoModel)
        problems += check_tensors(saved, get_peft_model_state_dict(model))
        tokenizer = AutoTokenizer.from_pretrained(args.adapter)
        sentence, heard = check_adapter.listen(lambda: SentenceTransformer(str(args.adapter), device="cpu"))
        problems += heard
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot load: {error!r}", file=sys.stderr)
        sys.exit(2)

    print(f"{len(saved)} adapter tensors, {len(texts)} texts, modules {[type(module).__name__ for module in sentence]}")
    modules = list(sentence)[1:]
    theirs = {
        "PEFT": torch.stack([embed(model, modules, tokenizer, text, max_length) for text in texts]),
        "sentence-transformers": sentence.encode(texts, convert_to_tensor=True, show_progress_bar=False),
    }
    with model.disable_adapter():
        off = torch.stack([embed(model, modules, tokenizer, text, max_length) for text in texts])
    print(f"largest difference to the base without adapter: {(ours - off).abs().max():.2e}")
    for name, embeddings in theirs.items():
        worst = (ours - embeddings).abs().max().item()
        print(f"largest difference to {name}: {worst:.2e}")
        if not worst <= TOLERANCE:
            problems.append(f"embeddings differ from those of {name} by {worst:.2e}, more than {TOLERANCE}")
    if not texts:
        problems.append("no text")
    for problem in problems:
        print(f"FAIL {problem}")
    sys.exit(1 if problems else 0)


@torch.no_grad()
def embed(model, modules, tokenizer, text, max_length):
    """One text, alone and so without padding, through PEFT's model and then the modules of the adapter's folder."""
    inputs = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
    features = {"token_embeddings": model(**inputs).last_hidden_state, "attention_mask": inputs["attention_mask"]}
    for module in modules:
        features = module(features)
    return features["sentence_embedding"][0]


if __name__ == "__main__":
    main()
