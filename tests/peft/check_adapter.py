"""check_adapter.py --base HF_FOLDER --adapter DIR [--run-json FILE]: PEFT's view of an adapter against its run.json.

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
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-3  # f32 on both sides: what differs is the order of sums over 30 layers
KEY_WARNINGS = ("missing", "unexpected", "mismatch", "not found", "ignored")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--run-json", type=Path, help="default: ADAPTER/run.json")
    args = parser.parse_args()
    try:
        metrics = json.loads((args.run_json or args.adapter / "run.json").read_text())["metrics"]
        ours = metrics["adapter"]["loss"]
        records = [json.loads(line) for line in (args.adapter / "held_out.jsonl").read_text().splitlines()]
        saved = load_file(args.adapter / "adapter_model.safetensors")
        model, problems = load(args.base, args.adapter)
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot load: {error!r}", file=sys.stderr)
        sys.exit(2)
    problems += check_tensors(saved, get_peft_model_state_dict(model))
    if not records:
        problems.append("held_out.jsonl is empty")

    print(f"{len(saved)} adapter tensors, {len(records)} held-out records")
    print(f"{'':10}{'loss ours':>12}{'PEFT':>12}{'accuracy ours':>16}{'PEFT':>8}")
    loss, accuracy = row("adapter", metrics, model, records)
    with model.disable_adapter():
        row("base", metrics, model, records)
    if not abs(loss - ours) <= TOLERANCE:
        problems.append(f"the losses differ by {abs(loss - ours):.2e}, more than {TOLERANCE}")
    for problem in problems:
        print(f"FAIL {problem}")
    sys.exit(1 if problems else 0)


def load(base, adapter):
    """The model, and what transformers and PEFT said about its keys while loading."""
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    loggers = [logging.getLogger(), logging.getLogger("transformers"), logging.getLogger("peft")]
    for logger in loggers:
        logger.addHandler(handler)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        model = PeftModel.from_pretrained(model, adapter).eval()
    for logger in loggers:
        logger.removeHandler(handler)
    heard += [str(warning.message) for warning in warned]
    return model, [text for text in heard if any(word in text.lower() for word in KEY_WARNINGS)]


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
    loss, accuracy, seconds = evaluate(model, records)
    ours = metrics.get(name, {})
    show = lambda key: f"{ours[key]:.6f}" if isinstance(ours.get(key), (int, float)) else "-"
    print(f"{name:10}{show('loss'):>12}{loss:12.6f}{show('accuracy'):>16}{accuracy:8.4f}   ({seconds:.1f} s)")
    return loss, accuracy


@torch.no_grad()
def evaluate(model, records):
    """Negative log-likelihood per labelled token; share of records whose every labelled token is the most likely."""
    start, nll, n_labels, n_right = time.time(), 0.0, 0, 0
    for record in records:
        logits = model(input_ids=torch.tensor([record["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(record["labels"][1:])
        labelled = labels != -100
        logprobs = logits[labelled].log_softmax(-1)
        nll -= logprobs.gather(1, labels[labelled, None]).double().sum().item()
        n_labels += int(labelled.sum())
        n_right += bool((logprobs.argmax(-1) == labels[labelled]).all())
    return nll / max(n_labels, 1), n_right / max(len(records), 1), time.time() - start


if __name__ == "__main__":
    main()
