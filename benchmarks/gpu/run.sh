#!/usr/bin/env bash
# Builds what a GPU machine without Rust or network needs, or measures here; benchmarks/gpu/measure.sh has the stages.
# usage: benchmarks/gpu/run.sh build [FILE.tar.gz]      (default: target/gpu-bundle.tar.gz)
#        benchmarks/gpu/run.sh [options of measure.sh]  builds, and measures on this machine; `--dry-run` on the emulated GPU
#
# On the GPU machine: tar xzf gpu-bundle.tar.gz && tunesmith-gpu/run.sh. It needs x86-64, the NVIDIA driver and python3, and for
# the comparison torch, transformers and PEFT.
set -euo pipefail
cd "$(dirname "$0")/../.."
MOST_BYTES=40000000
target=${CARGO_TARGET_DIR:-target}
bundle=$target/tunesmith-gpu

# Cargo's messages say where each executable is, and where the emulated driver. The whole workspace is named, so that features, and
# with them what is built already, are those of the tests.
build() {
    cargo build --release --message-format=json-render-diagnostics --workspace \
        --bin tunesmith --example gpu_speed --test cuda --test cuda_training --test golden > "$target/gpu-build.json"
    python3 - "$target/gpu-build.json" << 'PY'
import json, sys
for message in map(json.loads, open(sys.argv[1], encoding="utf-8")):
    if message["reason"] == "compiler-artifact" and message.get("executable"):
        print(message["target"]["name"], message["executable"])
    if message["reason"] == "build-script-executed" and "cuda-emulator" in message["package_id"]:
        print("emulator", message["out_dir"] + "/libraries")
PY
}

assemble() {
    mkdir -p "$target"
    local places name place
    places=$(build)
    rm -rf "$bundle"
    mkdir -p "$bundle"/{bin,emulator,package/tests,tokenizer,routing}
    while read -r name place; do
        case $name in
            emulator) cp "$place"/libcuda.so "$place"/libcublasLt.so "$bundle/emulator" ;;
            *) cp "$place" "$bundle/bin/$name" ;;
        esac
    done <<< "$places"
    strip "$bundle"/bin/* "$bundle"/emulator/*
    cp benchmarks/gpu/measure.sh "$bundle/run.sh"
    cp benchmarks/gpu/{peer,report}.py "$bundle"
    cp -r trainer-cuda/tests/fixtures "$bundle/package/tests"
    cp examples/quickstart/base/tokenizer*.json "$bundle/tokenizer"
    python3 benchmarks/make_routing_set.py "$bundle/routing/routing.jsonl" --examples 500
    routing_settings > "$bundle/routing/tunesmith.toml"
    git describe --always --dirty --abbrev=40 --exclude '*' > "$bundle/COMMIT"
    local glibc
    glibc=$(objdump -T "$bundle"/bin/* "$bundle"/emulator/* | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
    cat > "$bundle/README" << TXT
Tunesmith at $(cat "$bundle/COMMIT"): measurements of a GPU. Run ./run.sh; its first lines have the options.
Needs x86-64 Linux with glibc ${glibc#GLIBC_}, the NVIDIA driver 570 or newer, bash, coreutils and python3.
TXT
}

# The settings of benchmarks/smollm2.sh, for three epochs.
routing_settings() {
    cat << TOML
agent_type = "routing"
output_dir = "adapters"
method = "sft"
min_sft_examples = 10
epochs = 3
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
}

assemble
if [ "${1-}" = build ]; then
    file=${2:-$target/gpu-bundle.tar.gz}
    tar --create --gzip --file "$file" --directory "$target" tunesmith-gpu
    bytes=$(stat --format=%s "$file")
    echo "$file: $bytes bytes of $MOST_BYTES, $(du -sh "$bundle" | cut -f 1) unpacked; $(sed -n 2p "$bundle/README")"
    if ((bytes > MOST_BYTES)); then
        echo "too large; the largest are:" >&2
        find "$bundle" -type f -printf '%s %P\n' | sort -rn | head >&2
        exit 1
    fi
else
    "$bundle/run.sh" --out "$target/gpu-results" "$@"
fi
