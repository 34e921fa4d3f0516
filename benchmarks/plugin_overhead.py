#!/usr/bin/env python3
"""The share of plugin calls in the time before training, at 10,056 spans.

    python3 benchmarks/plugin_overhead.py [WORK_FOLDER]

The spans are those of the quick start's routing agent under 24 seeds, and all of them go through the extractor.
Plugin time is whole: instantiation, copies in and out, and the guest's own work, which a native pipeline would do too.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "examples/quickstart"
RUNS = 5


def spans_and_verdicts(seed, work):
    path = work / "seed.jsonl"
    subprocess.run([sys.executable, QUICKSTART / "make_telemetry.py", "--seed", str(seed), "--out", path], check=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    spans = [row for row in rows if row["name"] == "RoutingAgent.route"]
    ids = {span["context"]["span_id"] for span in spans}
    return spans + [row for row in rows if row.get("span_id") in ids]


def main():
    work = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/plugin_overhead").absolute()
    work.mkdir(parents=True, exist_ok=True)
    telemetry = work / "telemetry.jsonl"
    rows = [row for seed in range(1, 25) for row in spans_and_verdicts(seed, work)]
    telemetry.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(RUNS):
        shutil.rmtree(work / "store", ignore_errors=True)
        command = ["cargo", "run", "--release", "--quiet", "--", "finetune", "--json", "--agent-type", "routing",
                   "--method", "sft", "--base-model", QUICKSTART / "base", "--epochs", "1", "--batch-size", "64",
                   "--import", telemetry, "--store", work / "store/telemetry.sqlite", "--output-dir", work / "adapters"]
        run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        report = json.loads(run.stdout)
        times = report["timings"]
        print(f"{report['spans']} spans: {times['before_training_s']:.2f} s before training, "
              f"{1e3 * times['plugins_s']:.0f} ms of it in plugin calls ({100 * times['plugin_share']:.1f}%)")
    print("".join(line + "\n" for line in run.stderr.splitlines() if line.split(" ")[0] in ("import", "extract", "encode", "base")))


if __name__ == "__main__":
    main()
