#!/usr/bin/env python
"""What one would run instead of Tunesmith, on the same rows: prints the fields of `step_cost`'s line of JSON.

    python benchmarks/trainer/peers.py KIND --base-model FOLDER --data F.jsonl [options]

KIND is `trl_sft`, `trl_dpo` or `sentence_transformers`: the trainer with a user's defaults; or `loop_sft`, `loop_dpo` or
`loop_triplet`: the fastest plain torch loop that we know how to write by hand. All train LoRA of rank 8 and alpha 16 on
all linear layers, over the rows in order, on `--threads` threads that sleep while they wait.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

KINDS = ["trl_sft", "trl_dpo", "sentence_transformers", "loop_sft", "loop_dpo", "loop_triplet"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--examples", type=int, help="the first rows only")
    parser.add_argument("--loss", choices=["completion", "whole"], default="completion", help="of SFT")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference", choices=["cached", "step"], default="cached", help="of loop_dpo: computed before the first step, or in each")
    parser.add_argument("--no-shared-prefix", action="store_true", help="random token ids for each prompt's; SFT only")
    args = parser.parse_args()
    if args.no_shared_prefix and not args.kind.endswith("_sft"):
        parser.error("--no-shared-prefix is of trl_sft and loop_sft")
    if args.steps < 2:
        parser.error("--steps has to be 2 at least: the first step is not counted")

    # Before torch is imported. PASSIVE: threads that spin while they wait would be counted as work.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    lines = args.data.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[: args.examples]]
    meter = Meter()
    if args.kind.startswith("loop_"):
        import peer_loops as peers
    else:
        import peer_trainers as peers
    versions = getattr(peers, args.kind)(args, rows, meter)
    print(json.dumps(meter.report(args, versions)))


class Meter:
    """Times optimiser steps; counts their tokens as computed, padding included, and without it."""

    def __init__(self):
        self.wall, self.cpu, self.losses = [], [], []
        self.computed = self.flat = 0
        self.setup_cpu = self.first_step = None

    def begin(self):
        self.started, self.cpu_before = time.perf_counter(), cpu_seconds()
        if self.setup_cpu is None:
            self.setup_cpu = self.cpu_before

    def tokens(self, attention_mask):
        self.computed += attention_mask.numel()
        self.flat += int(attention_mask.sum())

    def end(self):
        self.wall.append(time.perf_counter() - self.started)
        self.cpu.append(cpu_seconds() - self.cpu_before)
        if self.first_step is None:
            self.first_step = seconds_since_start()

    def report(self, args, versions):
        steps = len(self.wall)
        return {
            "program": args.kind,
            "device": f"cpu ({args.threads} threads), {versions}",
            "batch_size": args.batch_size,
            "precision": args.precision,
            "steps": steps,
            "wall_s_median": statistics.median(self.wall[1:]),
            "wall_s_min": min(self.wall[1:]),
            "cpu_s_median": statistics.median(self.cpu[1:]),
            "cpu_s_min": min(self.cpu[1:]),
            "tokens_computed": self.computed / steps,
            "tokens_flat": self.flat / steps,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "setup_cpu_s": self.setup_cpu,
            "first_step_s": self.first_step,
            "loss_first": self.losses[0],
            "loss_last": self.losses[-1],
        }


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def seconds_since_start():
    """Wall time since the system started this process: imports count."""
    after_name = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - started


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
