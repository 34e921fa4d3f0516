#!/usr/bin/env python3
"""How far transformers and PEFT in bf16 are from themselves in fp32, on the golden set: what `bench.rs` allows the GPU.

    python3 hugging_face_bf16.py        with the packages of tests/peft/requirements.txt
"""

import json
import pathlib

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

GOLDEN = pathlib.Path(__file__).parent.parent / "fixtures" / "golden"


def logprobs(model, ids):
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    chosen = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return logits, chosen


def worst_gradient(model, tensors, tag):
    def deviation(name, parameter):
        expected = tensors.get(f"{tag}/grad/{name.replace('.default', '')}")
        return 0.0 if expected is None else ((parameter.grad.float() - expected).norm() / expected.norm()).item()

    worst = max(deviation(name, p) for name, p in model.named_parameters() if p.grad is not None)
    model.zero_grad()
    return worst


def main():
    print(f"{'':20} logits logprob | sft_full loss  gradient | sft_comp loss  gradient | dpo loss  gradient  mean margin")
    for folder in sorted(GOLDEN.iterdir()):
        reference, tensors = json.loads((folder / "ref.json").read_text()), load_file(folder / "ref.safetensors")
        if "sft_full" not in reference:
            continue
        base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
        model = PeftModel.from_pretrained(base, folder / "adapter_init", is_trainable=True)

        logits, logprob = [], 0.0
        forward = reference["forward"]
        for i, (ids, positions) in enumerate(zip(forward["input_ids"], forward["logit_positions"])):
            all_logits, chosen = logprobs(model, ids)
            logits.append(all_logits[positions])
            logprob = max(logprob, (chosen - tensors[f"forward/logprob_{i}"]).abs().max().item())
        columns = [(torch.cat(logits) - tensors["forward/logits_adapter"]).abs().max().item(), logprob]

        for tag in ("sft_full", "sft_comp"):
            run = reference[tag]
            labels = [torch.tensor(row[1:]) for row in run["labels"]]
            n_labels = sum((row != -100).sum() for row in labels)
            loss = 0.0
            for ids, row in zip(run["input_ids"], labels):
                part = functional.cross_entropy(logprobs(model, ids)[0][:-1], row, reduction="sum") / n_labels
                part.backward()
                loss += part.item()
            columns += [abs(loss - run["loss"]) / run["loss"], worst_gradient(model, tensors, tag)]

        run, loss, margins = reference["dpo"], 0.0, []
        for prompt, *sides in zip(run["prompt_ids"], run["chosen_ids"], run["rejected_ids"]):
            def sums():
                return [logprobs(model, prompt + side)[1][len(prompt) - 1 :].sum() for side in sides]

            policy = sums()
            with torch.no_grad(), model.disable_adapter():
                base_sums = sums()
            margin = run["beta"] * ((policy[0] - base_sums[0]) - (policy[1] - base_sums[1]))
            part = -functional.logsigmoid(margin) / len(run["prompt_ids"])
            part.backward()
            loss += part.item()
            margins.append(margin.item())
        off = sum(ours - theirs for ours, theirs in zip(margins, run["margins"])) / len(margins)
        columns += [abs(loss - run["loss"]) / run["loss"], worst_gradient(model, tensors, "dpo"), abs(off)]
        print(f"{folder.name:20} " + " ".join(f"{column:10.1e}" for column in columns))


main()
