#!/usr/bin/env bash
# Makes the quick start's data anew: the sample telemetry, and the base model that is pre-trained on generated agent
# text (about 5 minutes on two cores). Same seeds, same machine kind: same bytes.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
cd "$here/../.."
python3 "$here/make_telemetry.py"
python3 "$here/make_corpus.py"
cargo run --release --package trainer-cuda --example pretrain -- "$here/agent_corpus.jsonl" "$here/base"
