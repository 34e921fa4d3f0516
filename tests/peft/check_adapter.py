"""check_adapter.py --base HF_FOLDER --adapter DIR --records FILE: PEFT's view of an adapter against its run.json.

README.md beside this says what is read, what is compared and what the exit codes mean.
"""

import argparse
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-3  # f32 on both sides: what differs is the order of sums over 30 layers
KEY_WARNINGS = ("missing", "unexpected", "mismatch", "not found", "ignored")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--records", type=Path, required=True, help="what `tunesmith extract` wrote")
    args = parser.parse_args()
    try:
        metrics = json.loads((args.adapter / "run.json").read_text())["report"]["held_out"]
        ours = metrics["adapter"]["loss"]
        lines = [json.loads(line) for line in args.records.read_text().splitlines()]
        tokenizer = AutoTokenizer.from_pretrained(args.adapter)
        records = [encode(tokenizer, line) for line in lines if line["set"] == "held_out"]
        saved = load_file(args.adapter / "adapter_model.safetensors")
        model, problems = load(args.base, args.adapter)
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot load: {error!r}", file=sys.stderr)
        sys.exit(2)
    problems += check_tensors(saved, get_peft_model_state_dict(model))
    if not records:
        problems.append("no held-out record")

    print(f"{len(saved)} adapter tensors, {len(records)} held-out records")
    print(f"{'':10}{'loss ours':>12}{'PEFT':>12}{'match ours':>16}{'PEFT':>8}")
    loss = row("adapter", metrics, model, records)
    with model.disable_adapter():
        row("base", metrics, model, records)
    if not abs(loss - ours) <= TOLERANCE:
        problems.append(f"the losses differ by {abs(loss - ours):.2e}, more than {TOLERANCE}")
    for problem in problems:
        print(f"FAIL {problem}")
    sys.exit(1 if problems else 0)


def encode(tokenizer, line):
    """Token ids, labels and the first token of the response, by the tokenizer that the adapter carries: a text is
    trained whole, a completion alone; the response starts where the tokens of the prompt and the whole part."""
    if "text" in line:
        whole, prompt = line["text"], line["text"].encode()[: line["response_start"]].decode()
    else:
        whole, prompt = line["prompt"] + line["completion"], line["prompt"]
    ids = tokenizer(whole.removesuffix(tokenizer.eos_token) + tokenizer.eos_token)["input_ids"]
    start = 0
    for ours, theirs in zip(tokenizer(prompt)["input_ids"], ids):
        if ours != theirs:
            break
        start += 1
    return {"input_ids": ids, "labels_from": 0 if "text" in line else start, "response_from": start}


def load(base, adapter, auto=AutoModelForCausalLM):
    """The model, and what transformers and PEFT said about its keys while loading."""

    def both():
        model = auto.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        return PeftModel.from_pretrained(model, adapter).eval()

    return listen(both)


def listen(load):
    """What `load` gives, and what was said about keys meanwhile."""
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    loggers = [logging.getLogger(), logging.getLogger("transformers"), logging.getLogger("peft")]
    for logger in loggers:
        logger.addHandler(handler)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        loaded = load()
    for logger in loggers:
        logger.removeHandler(handler)
    heard += [str(warning.message) for warning in warned]
    return loaded, [text for text in heard if any(word in text.lower() for word in KEY_WARNINGS)]


def check_tensors(saved, loaded):
    problems = [f"missing tensor {name}" for name in sorted(loaded.keys() - saved.keys())]
    problems += [f"unexpected tensor {name}" for name in sorted(saved.keys() - loaded.keys())]
    for name in sorted(saved.keys() & loaded.keys()):
        if saved[name].shape != loaded[name].shape:
            problems.append(f"{name} has shape {list(saved[name].shape)}, PEFT wants {list(loaded[name].shape)}")
        elif not torch.isfinite(saved[name]).all():
            problems.append(f"{name} is not finite")
        elif not torch.equal(saved[name].float(), loaded[name].float()):
            problems.append(f"{name} was not loaded")
    if all(not tensor.any() for name, tensor in saved.items() if "lora_B" in name):
        problems.append("every lora_B is zero: the adapter does nothing")
    return problems


def row(name, metrics, model, records):
    loss, exact_match, seconds = evaluate(model, records)
    ours = metrics[name]
    print(f"{name:10}{ours['loss']:12.6f}{loss:12.6f}{ours['exact_match']:16.4f}{exact_match:8.4f}   ({seconds:.1f} s)")
    return loss


@torch.no_grad()
def evaluate(model, records):
    """Negative log-likelihood per labelled token; share of records whose every response token is the most likely."""
    start, nll, n_labels, n_right = time.time(), 0.0, 0, 0
    for record in records:
        ids = torch.tensor(record["input_ids"])
        logprobs = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)  # row i predicts token i + 1
        labels_from, response_from = max(record["labels_from"], 1), max(record["response_from"], 1)
        labelled = logprobs[labels_from - 1 :].gather(1, ids[labels_from:, None])
        nll -= labelled.double().sum().item()
        n_labels += len(labelled)
        n_right += bool((logprobs[response_from - 1 :].argmax(-1) == ids[response_from:]).all())
    return nll / max(n_labels, 1), n_right / max(len(records), 1), time.time() - start


if __name__ == "__main__":
    main()
