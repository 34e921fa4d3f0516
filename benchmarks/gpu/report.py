#!/usr/bin/env python3
"""Collects what the stages of `measure.sh` left into results.json and results.md. Standard library only.

    python3 report.py --stages FOLDER --out FOLDER --commit TEXT [--dry-run]
"""

import argparse
import csv
import json
import os
import platform
import time
from pathlib import Path

# Of an H100, at a batch of 8,192 tokens.
TOKENS_PER_S = {"SmolLM2-135M": 400_000, "Qwen2.5-3B": 35_000, "Llama-3.1-8B": 14_000}
TIMES_PEER = 2.0
ROUTING_SECONDS = 10.0
TAIL_LINES = 40


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    folders = sorted(folder for folder in args.stages.iterdir() if (folder / "status").exists())
    stages = {text(folder, "name"): Stage(folder) for folder in folders}
    results = collect(stages, args.commit, args.dry_run)
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (args.out / "results.md").write_text("".join(line + "\n" for line in markdown(results)), encoding="utf-8")


class Stage:
    def __init__(self, folder):
        self.status, self.reason = text(folder, "status"), text(folder, "reason")
        self.seconds = float(text(folder, "seconds"))
        self.stdout, self.stderr = text(folder, "stdout"), text(folder, "stderr")

    def line(self):
        """The line of JSON that it printed last; nothing where it failed."""
        return json.loads(self.stdout.splitlines()[-1]) if self.status == "passed" else None

    def whole(self):
        """All of its output as JSON, which `doctor` prints where something is lacking, too."""
        try:
            return json.loads(self.stdout)
        except ValueError:
            return None

    def summary(self, name):
        known = {"name": name, "status": self.status, "seconds": round(self.seconds, 1)}
        if self.reason:
            known["reason"] = self.reason
        if self.status == "failed":
            known["tail"] = [line for output in (self.stdout, self.stderr) for line in output.splitlines()[-TAIL_LINES:]]
        return known


def text(folder, name):
    path = folder / name
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""


def collect(stages, commit, dry_run):
    lines = {name: stage.line() for name, stage in stages.items() if name.count("/") == 2}
    speed = [{"stage": name, **line} for name, line in lines.items() if line and line["program"] == "tunesmith"]
    peer = [{"stage": name, **line} for name, line in lines.items() if line and line["program"] != "tunesmith"]
    for row in speed:
        # Equal examples, or half of them where its memory did not hold more: by token of separate sequences.
        theirs = peer_of(row, peer)
        row["times_peer"] = row["flat_tokens_per_s"] / theirs["flat_tokens_per_s"] if theirs else None
    routing = routing_of(stages.get("routing/finetune"))
    return {
        "dry_run": dry_run,
        "commit": commit,
        "machine": machine(stages),
        "stages": [stage.summary(name) for name, stage in stages.items()],
        "speed": speed,
        "peer": peer,
        "routing": routing,
        "targets": [] if dry_run else list(targets(speed, routing)),
    }


def peer_of(row, peer):
    """The peer's measurement of the same batch."""
    shared = row["stage"].endswith("/shared")
    of_row = (theirs for theirs in peer if theirs["stage"].endswith("/shared-peer") == shared)
    return next((theirs for theirs in of_row if same(theirs, row, "shape") and same(theirs, row, "method")), None)


def same(a, b, key):
    """The peer names shapes as it was asked for them, in lower case."""
    return str(a[key]).lower() == str(b[key]).lower()


def machine(stages):
    gpu = stages.get("machine/gpu")
    gpus = list(csv.DictReader(gpu.stdout.splitlines(), skipinitialspace=True)) if gpu and gpu.status == "passed" else []
    doctor = stages.get("machine/doctor")
    return {
        "gpu": gpus,
        "doctor": (doctor.whole() if doctor else None) or [],
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "finished": time.strftime("%Y-%m-%d %H:%M"),
    }


def processor():
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def routing_of(stage):
    if stage is None or stage.status != "passed":
        return None
    return {"seconds": stage.seconds, "run": stage.whole()}


def targets(speed, routing):
    """What is wanted of an H100, beside what was measured; None where nothing was."""
    measured = {(row["shape"], row["method"]): row for row in speed if row["graphs"] and not row["stage"].endswith("/shared")}
    for shape, wanted in TOKENS_PER_S.items():
        row = measured.get((shape, "sft"))
        value = row and row["tokens_per_s"]
        yield target(f"{shape}, SFT: physical tokens/s", wanted, value, value and value >= wanted)
    for shape in TOKENS_PER_S:
        for method in ("sft", "dpo"):
            row = measured.get((shape, method))
            value = row and row["times_peer"]
            yield target(f"{shape}, {method.upper()}: times transformers + PEFT", TIMES_PEER, value, value and value >= TIMES_PEER)
    value = routing and routing["seconds"]
    yield target("routing set, 500 examples x 3 epochs: seconds, at most", ROUTING_SECONDS, value, value and value < ROUTING_SECONDS)


def target(what, wanted, measured, met):
    return {"what": what, "wanted": wanted, "measured": measured, "met": met}


def markdown(results):
    machine = results["machine"]
    gpu = machine["gpu"][0] if machine["gpu"] else {}
    devices = sorted({row["device"] for row in results["speed"] + results["peer"]})
    yield f"{gpu.get('name', 'no GPU')}, driver {gpu.get('driver_version', 'none')}; {machine['processor']}, {machine['cores']} cores; {machine['finished']}."
    yield f"Tunesmith at {results['commit']}. {'; '.join(devices)}."
    if results["dry_run"]:
        yield ""
        yield "**A dry run on an emulated GPU, and on the CPU for the peer: that it runs is all that its figures say.**"
    if results["speed"] or results["peer"]:
        yield ""
        yield from steps(results)
    if results["routing"]:
        run = results["routing"]["run"] or {}
        yield ""
        yield f"Routing set, from process start to the adapter: {results['routing']['seconds']:.1f} s ({run.get('n_train', '?')} examples, {run.get('steps', '?')} steps)."
    if results["targets"]:
        yield ""
        yield "| target on an H100 | wanted | measured | met |"
        yield "|---|---:|---:|---|"
        for row in results["targets"]:
            met = {None: "", True: "yes", False: "no"}[row["met"]]
            yield f"| {row['what']} | {number(row['wanted'])} | {number(row['measured'])} | {met} |"
    yield ""
    yield "| stage | | s | |"
    yield "|---|---|---:|---|"
    for stage in results["stages"]:
        yield f"| {stage['name']} | {stage['status']} | {stage['seconds']:.1f} | {stage.get('reason', '')} |"
    for stage in results["stages"]:
        if "tail" in stage:
            yield from ["", f"`{stage['name']}` ended with:", "", "```text", *stage["tail"][-15:], "```"]


def steps(results):
    yield "Tokens/s counts what is computed, common prefixes once; flat tokens/s what separate sequences have. MiB is all that the GPU had"
    yield "in use at the end, planned what our plan says. Start is from process start to the end of the first step: the peer reads no weights."
    yield ""
    yield "| model | method | program | batch | step ms | tokens/s | flat tokens/s | launches | MiB | planned | load s | start s | times the peer |"
    yield "|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for row in sorted(results["speed"] + results["peer"], key=lambda row: place(results, row)):
        program = row["program"] if row["program"] != "tunesmith" else f"Tunesmith, graphs {'on' if row['graphs'] else 'off'}"
        launches = row.get("launches")
        if launches is not None:
            launches = f"{launches:.0f}" + (f" + {row['graph_launches']:.0f} graph" if row.get("graph_launches") else "")
        figures = [row.get(key) for key in ("step_ms", "tokens_per_s", "flat_tokens_per_s")]
        memory = [row.get(key) for key in ("device_mib", "arena_mib")]
        times = [row.get(key) for key in ("load_s", "first_step_s", "times_peer")]
        cells = [row["shape"], row["method"].upper(), program, batch(row), *map(number, figures), launches or "", *map(number, memory), *map(number, times)]
        yield "| " + " | ".join(cells) + " |"


def place(results, row):
    """Models as measured, methods together, ours first."""
    order = [row["shape"] for row in results["speed"] + results["peer"]]
    return order.index(row["shape"]), "/shared" in row["stage"], row["method"] != "sft", row["program"] != "tunesmith", not row.get("graphs")


def batch(row):
    batch = row["batch"]
    unit = "pairs of" if row["method"] == "dpo" else "x"
    prefix = f", first {batch['prefix']} in common" if batch.get("prefix") else ""
    less = ", less than wanted for lack of memory" if batch["tokens"] < batch["tokens_wanted"] else ""
    recompute = ", recomputed" if row["recompute"] else ""
    return f"{batch['examples']} {unit} {batch['length']}{prefix}{recompute}{less}"


def number(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


if __name__ == "__main__":
    main()
