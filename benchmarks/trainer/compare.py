#!/usr/bin/env python3
"""Runs Tunesmith's training steps and what one would run instead by turns, and writes results.json and results.md.

    python3 benchmarks/trainer/compare.py --ours STEP_COST --python PYTHON --smollm2 FOLDER --minilm FOLDER --data FOLDER --out FOLDER

`benchmarks/trainer/run.sh` prepares all that and calls it. Standard library only.
"""

import argparse
import fnmatch
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUR_STEPS, PEER_STEPS = 8, 4
DPO_PAIRS = 32  # what the steps train on; the reference of each pair is computed before the first


@dataclass
class Row:
    name: str
    method: str
    arguments: list
    peers: dict  # what the table calls it -> kind and further arguments
    data: str = ""
    model: str = "smollm2"
    precision: str = "f32"
    ours: list = field(default_factory=list)
    theirs: dict = field(default_factory=dict)


def rows():
    """Every row of the table, in both precisions."""
    for precision in ("f32", "bf16"):
        for size in (4, 16):
            for loss in ("whole", "completion"):
                arguments = ["--loss", loss, "--batch-size", str(size)]
                peers = {"TRL": ["trl_sft"], "torch loop": ["loop_sft"]}
                yield Row(f"sft-{loss}-{size}-{precision}", "sft", arguments, peers, "sft", precision=precision)
        arguments = ["--batch-size", "4", "--examples", str(DPO_PAIRS)]
        peers = {
            "TRL": ["trl_dpo"],
            "torch loop": ["loop_dpo", "--reference", "cached"],
            "torch loop, reference in each step": ["loop_dpo", "--reference", "step"],
        }
        yield Row(f"dpo-4-{precision}", "dpo", arguments, peers, "dpo", precision=precision)
        peers = {"sentence-transformers": ["sentence_transformers"], "torch loop": ["loop_triplet"]}
        yield Row(f"triplet-16-{precision}", "triplet", ["--batch-size", "16"], peers, "triplets", "minilm", precision)
        arguments = ["--loss", "whole", "--batch-size", "4", "--no-shared-prefix"]
        peers = {"TRL": ["trl_sft"], "torch loop": ["loop_sft"]}
        yield Row(f"sft-whole-4-unshared-{precision}", "sft", arguments, peers, "sft", precision=precision)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("ours", "python", "smollm2", "minilm", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rows", default="*", help="names or patterns of rows, separated by blanks: `sft-* dpo-4-bf16`")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--our-steps", type=int, default=OUR_STEPS)
    parser.add_argument("--peer-steps", type=int, default=PEER_STEPS)
    args = parser.parse_args()
    chosen = [row for row in rows() if any(fnmatch.fnmatch(row.name, pattern) for pattern in args.rows.split())]
    if not chosen:
        sys.exit("no row of that name; there are " + " ".join(row.name for row in rows()))

    args.out.mkdir(parents=True, exist_ok=True)
    machine = {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform(), "started": now()}
    for row in chosen:
        for _ in range(args.repeats):
            for peer, words in row.peers.items():
                shared = [*row.arguments, "--base-model", getattr(args, row.model), "--data", args.data / f"{row.data}.jsonl"]
                shared += ["--precision", row.precision, "--threads", "2"]
                row.ours.append(run([args.ours, "--method", row.method, *shared, "--steps", str(args.our_steps)]))
                command = [args.python, HERE / "peers.py", *words, *shared, "--steps", str(args.peer_steps)]
                row.theirs.setdefault(peer, []).append(run(command))
                report(args.out, machine, chosen)  # what is measured stays, whatever the next run does
        print(f"{row.name} done", flush=True)
    wrong = [row.name for row in chosen if not losses_agree(row)]
    if wrong:
        sys.exit(f"not the same work, as the first losses differ: {' '.join(wrong)}")


def run(command):
    """The line of JSON that `command` prints last, with the load of the machine as it began."""
    load = os.getloadavg()[0]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-4000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "load_before": load, "command": list(map(str, command))}


def losses_agree(row):
    """The adapter begins as nothing, so the first loss is the base's on both sides. Where dropout is a peer's default (BERT
    in sentence-transformers), it is noise on top; bf16 rounds hidden states at other places: 0.5% apart over 20 labels."""
    ours = row.ours[0]["loss_first"]
    for peer, runs in row.theirs.items():
        tolerance = 0.1 if peer == "sentence-transformers" else 1e-3 if row.precision == "f32" else 0.02
        if abs(runs[0]["loss_first"] - ours) > tolerance * max(ours, 1.0):
            return False
    return True


def report(out, machine, measured):
    results = [{"row": row.name, "ours": row.ours, "peers": row.theirs} for row in measured if row.theirs]
    (out / "results.json").write_text(json.dumps({"machine": machine, "finished": now(), "rows": results}, indent=1) + "\n")
    (out / "results.md").write_text("".join(line + "\n" for line in table(machine, measured)), encoding="utf-8")


def table(machine, measured):
    done = [row for row in measured if row.theirs]
    devices = sorted({run["device"] for row in done for runs in ([row.ours], row.theirs.values()) for some in runs for run in some})
    yield f"{machine['processor']}, {machine['cores']} cores; {machine['started']}. {'; '.join(devices)}."
    yield "Medians; CPU s is processor time of an optimiser step, start is from process start to the end of the first step."
    yield "In brackets: how many times ours. Tokens are those computed in a step, padding included."
    yield ""
    yield "| row | | CPU s | wall s | peak MiB | start s | tokens | first loss |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for row in done:
        ours = medians(row.ours)
        yield line(row.name, "Tunesmith", ours, ours)
        for peer, runs in row.theirs.items():
            yield line("", peer, medians(runs), ours)


FIELDS = {"cpu_s_median": ".2f", "wall_s_median": ".2f", "peak_rss_mib": ".0f", "first_step_s": ".1f", "tokens_computed": ".0f"}


def medians(runs):
    return {name: statistics.median(run[name] for run in runs) for name in [*FIELDS, "loss_first"]}


def line(row, program, values, ours):
    is_ours = values is ours
    times = lambda name: "" if is_ours or name == "tokens_computed" else f" ({values[name] / ours[name]:.1f}x)"
    cells = [f"{values[name]:{digits}}{times(name)}" for name, digits in FIELDS.items()]
    return "| " + " | ".join([row, program, *cells, f"{values['loss_first']:.4f}"]) + " |"


def processor():
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def now():
    return time.strftime("%Y-%m-%d %H:%M")


if __name__ == "__main__":
    main()
