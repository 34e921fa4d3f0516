#!/usr/bin/env python3
"""Runs steps on one process and on two ranks by turns, and prints a table.

    python3 benchmarks/ranks/compare.py --step-cost PROGRAM --base-model MODEL --data FOLDER [--repeats 3] [--steps 8]

Standard library only.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess

ROWS = {
    "SFT, batch 16": ["--method", "sft", "--data", "sft.jsonl", "--loss", "whole", "--batch-size", "16"],
    "SFT, batch 16, no shared prefix": [
        "--method", "sft", "--data", "sft.jsonl", "--loss", "whole", "--batch-size", "16", "--no-shared-prefix",
    ],
    "DPO, 8 pairs": ["--method", "dpo", "--data", "dpo.jsonl", "--batch-size", "8", "--examples", "64"],
}
# Ranks and threads of each.
WAYS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 ranks, 1 thread each": (2, 1)}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(program, arguments, ranks, threads):
    """The report of each rank."""
    command = [program, *arguments, "--threads", str(threads)]
    port = str(free_port())
    started = []
    for rank in range(ranks):
        environment = dict(os.environ)
        if ranks > 1:
            environment |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in started]
    for process in started:
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return [json.loads(output) for output in outputs]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step-cost", required=True)
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()

    print("| row | way | steps/s | of 1 thread | tokens a step | CPU s a step | peak MiB | first loss |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for row, arguments in ROWS.items():
        files = [f"{args.data}/{word}" if word.endswith(".jsonl") else word for word in arguments]
        files += ["--base-model", args.base_model, "--steps", str(args.steps)]
        reports = {way: [] for way in WAYS}
        for _ in range(args.repeats):
            for way, (ranks, threads) in WAYS.items():
                reports[way].append(run(args.step_cost, files, ranks, threads))
        seconds = {
            way: statistics.median(ranks[0]["wall_s_median"] for ranks in reports[way]) for way in WAYS
        }
        alone = next(iter(seconds.values()))
        for way in WAYS:
            last = reports[way][-1]
            cpu = statistics.median(sum(rank["cpu_s_median"] for rank in ranks) for ranks in reports[way])
            peak = "+".join(f"{rank['peak_rss_mib']:.0f}" for rank in last)
            print(
                f"| {row} | {way} | {1 / seconds[way]:.2f} | {alone / seconds[way]:.2f}x | {last[0]['tokens_computed']:.0f} "
                f"| {cpu:.2f} | {peak} | {last[0]['loss_first']:.5f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
