"""check_dpo.py --base HF_FOLDER --adapter DIR --records FILE: PEFT's view of a DPO adapter against its run.json.

README.md beside this says what is read, what is compared and what the exit codes mean.
"""

import argparse
import json
import sys
from pathlib import Path

import check_adapter
import torch
from check_adapter import AutoTokenizer, check_tensors, get_peft_model_state_dict, load_file

TOLERANCE = 1e-3  # f32 on both sides; rewards are beta times differences of sums over a response


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--records", type=Path, required=True, help="what `tunesmith extract --kind pairs` wrote")
    args = parser.parse_args()
    try:
        run = json.loads((args.adapter / "run.json").read_text())
        ours, beta = run["report"]["held_out"]["adapter"], find(run, "beta")
        lines = [json.loads(line) for line in args.records.read_text().splitlines()]
        pairs = [line for line in lines if line["set"] == "held_out"]
        tokenizer = AutoTokenizer.from_pretrained(args.adapter)
        saved = load_file(args.adapter / "adapter_model.safetensors")
        model, problems = check_adapter.load(args.base, args.adapter)
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot load: {error!r}", file=sys.stderr)
        sys.exit(2)
    problems += check_tensors(saved, get_peft_model_state_dict(model))
    if not pairs:
        problems.append("no held-out pair")

    theirs = score(model, tokenizer, pairs, beta)
    print(f"{len(saved)} adapter tensors, {len(pairs)} held-out pairs")
    for key, value in theirs.items():
        print(f"{key:18} ours {ours[key]:10.6f}  PEFT {value:10.6f}")
        if not abs(value - ours[key]) <= TOLERANCE:
            problems.append(f"{key} differs by {abs(value - ours[key]):.2e}, more than {TOLERANCE}")
    for problem in problems:
        print(f"FAIL {problem}")
    sys.exit(1 if problems else 0)


def find(value, key):
    """The first value of that key, at any depth."""
    if isinstance(value, dict):
        return value[key] if key in value else next(filter(None, (find(inner, key) for inner in value.values())), None)
    return None


def score(model, tokenizer, pairs, beta):
    """Means over the pairs, as Rafailov et al. 2023, eq. 7 defines them; the reference is the model without adapter."""
    sequences = [encode(tokenizer, pair) for pair in pairs]
    policy = [[logprob(model, ids, start) for ids in sides] for *sides, start in sequences]
    with model.disable_adapter():
        reference = [[logprob(model, ids, start) for ids in sides] for *sides, start in sequences]
    rewards = beta * (torch.tensor(policy) - torch.tensor(reference))
    margin = rewards[:, 0] - rewards[:, 1]
    return {
        "loss": -torch.nn.functional.logsigmoid(margin).mean().item(),
        "reward_accuracy": (margin > 0).float().mean().item(),
        "reward_margin": margin.mean().item(),
        "chosen_reward": rewards[:, 0].mean().item(),
        "rejected_reward": rewards[:, 1].mean().item(),
    }


def encode(tokenizer, pair):
    """Token ids of both sides, and where the responses start: the earlier place where prompt and whole part."""
    sides = [tokenizer(pair["prompt"] + pair[side] + tokenizer.eos_token)["input_ids"] for side in ("chosen", "rejected")]
    prompt = tokenizer(pair["prompt"])["input_ids"]
    return *sides, min(common(prompt, ids) for ids in sides)


def common(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


@torch.no_grad()
def logprob(model, ids, start):
    logits = model(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[start:])[:, None]).sum().item()


if __name__ == "__main__":
    main()
