#!/usr/bin/env bash
# Measures Tunesmith on this machine's GPU, in stages. Each has its time limit; one that fails is told, and the rest goes on.
# usage: run.sh [--out DIR] [--only STAGE]... [--cuda-libs DIR] [--dry-run]
#
#   --out        where results.json, results.md and what the stages printed go (default: ./results)
#   --only       of the stages: machine, parity, smollm2-135m, routing, qwen2.5-3b, llama-3.1-8b, sanitizer
#   --cuda-libs  a folder with NVIDIA's libraries, where they are at no usual place
#   --dry-run    all stages at tiny sizes on the emulated GPU: what it prints are no measurements
#
#   BUDGET             seconds for everything (default 480): what is left when they are over is not run
#   PYTHON             an interpreter for the report; transformers and PEFT are measured where it has them (default: python3)
#   TUNESMITH_SMOLLM2  SmolLM2-135M as a Hugging Face folder, for the routing set (default: random weights)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=results
only=()
dry=
libraries=
while (($#)); do
    case $1 in
        --out) out=${2:?a folder} && shift 2 ;;
        --only) only+=("${2:?a stage}") && shift 2 ;;
        --cuda-libs) libraries=$(cd "${2:?a folder}" && pwd) && shift 2 ;;
        --dry-run) dry=1 && shift ;;
        *) sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//p}' "$0" >&2 && exit 2 ;;
    esac
done
PYTHON=${PYTHON:-python3}
BUDGET=${BUDGET:-480}
mkdir -p "$out"
out=$(cd "$out" && pwd)
stages=$out/stages
rm -rf "$stages"
mkdir -p "$stages"

# Models and caches. Memory serves where it has room for the largest model: it is read as fast as it is copied to the GPU.
scratch=$out
if [ -d /dev/shm ] && (($(df --output=avail -BG /dev/shm | tr -dc 0-9) >= 24)); then scratch=/dev/shm; fi
scratch=$(mktemp -d -p "$scratch")
trap 'rm -rf "$scratch"' EXIT
# The first run compiles kernels and plugins, as on a machine that never ran them.
on_gpu=(env "CARGO_MANIFEST_DIR=$here/package" "CUDA_CACHE_PATH=$scratch/kernels" "XDG_CACHE_HOME=$scratch/cache")
fixtures=$here/package/tests/fixtures
if [ -n "$dry" ]; then
    libraries=${libraries:-$here/emulator}
    on_gpu+=("TUNESMITH_EMULATOR=$libraries" "CUDA_EMULATOR_THREADS=$(nproc)")
    export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
    tokenizer=$fixtures/golden/llama_tied/base
    peer_device=cpu
else
    # torch brings a library of products along: the same one for both sides.
    of_torch=$("$PYTHON" -c 'import glob, sys
print(next((file.rpartition("/")[0] for path in sys.path for file in glob.glob(path + "/nvidia/*/lib/libcublasLt.so.*")), ""))' || true)
    on_gpu+=(TUNESMITH_REAL_GPU=1 "LD_LIBRARY_PATH=${libraries:+$libraries:}${of_torch:+$of_torch:}${LD_LIBRARY_PATH:-}")
    tokenizer=$here/tokenizer
    peer_device=cuda
fi
[ -z "$libraries" ] || on_gpu+=("TUNESMITH_CUDA_LIBS=$libraries")

wanted() { # GROUP
    [ ${#only[@]} -eq 0 ] && return
    local name
    for name in "${only[@]}"; do [ "$name" = "$1" ] && return; done
    return 1
}

n=0
wrong=()
record() { # NAME STATUS SECONDS [REASON]
    printf '%s\n' "$1" > "$folder/name"
    printf '%s\n' "$2" > "$folder/status"
    printf '%s\n' "$3" > "$folder/seconds"
    printf '%s\n' "${4-}" > "$folder/reason"
    printf '%-32s %-8s %6.1f s  %s\n' "$1" "$2" "$3" "${4-}"
    [ "$2" != failed ] || wrong+=("$1")
}

new_folder() { # NAME
    n=$((n + 1))
    folder=$stages/$(printf '%02d' "$n")-${1//\//-}
    mkdir -p "$folder"
}

not_run() { # NAME REASON
    wanted "${1%%/*}" || return 0
    new_folder "$1"
    record "$1" "not run" 0 "$2"
}

stage() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2 left=$((BUDGET - SECONDS)) status=0 began
    shift 2
    wanted "${name%%/*}" || return 0
    if ((left < 5)); then
        not_run "$name" "the $BUDGET s for everything were over"
        wrong+=("$name")
        return
    fi
    new_folder "$name"
    ((limit <= left)) || limit=$left
    began=$EPOCHREALTIME
    timeout --kill-after=5 "$limit" "$@" > "$folder/stdout" 2> "$folder/stderr" || status=$?
    local seconds
    seconds=$(awk "BEGIN { print $EPOCHREALTIME - $began }")
    case $status in
        0) record "$name" passed "$seconds" ;;
        124 | 137) record "$name" failed "$seconds" "was stopped after $limit s" ;;
        *) record "$name" failed "$seconds" "exit code $status" ;;
    esac
    ((status == 0)) || tail -qn 12 "$folder/stdout" "$folder/stderr" | sed 's/^/    /'
}

# After each group: what is measured stays.
report() { "$PYTHON" "$here/report.py" --stages "$stages" --out "$out" --commit "$(cat "$here/COMMIT")" ${dry:+--dry-run}; }

ours() { # NAME SECONDS FLAGS...
    stage "$1" "$2" "${on_gpu[@]}" "$here/bin/gpu_speed" --tokenizer "$tokenizer" \
        ${libraries:+--cuda-libs "$libraries"} "${@:3}"
}

has_torch=
if "$PYTHON" -c 'import torch, transformers, peft' 2> /dev/null; then has_torch=1; fi
peer() { # NAME SECONDS FLAGS...
    if [ -n "$has_torch" ]; then
        stage "$1" "$2" "$PYTHON" "$here/peer.py" --device "$peer_device" "${@:3}"
    else
        not_run "$1" "no torch, transformers and PEFT here"
    fi
}

speed() { # SHAPE TOKENS LENGTH SECONDS LIMIT: both sides by turns, what matters most first
    local shape=$1 model=$scratch/$1 sizes=(--tokens "$2" --length "$3" --seconds "$4") limit=$5
    wanted "$shape" || return 0
    stage "$shape/model" 60 "$here/bin/gpu_speed" --shape "$shape" --model "$model" --tokenizer "$tokenizer" --write-only
    local graphs method
    for graphs in true false; do
        for method in sft dpo; do
            ours "$shape/$method/graphs-$graphs" "$limit" --shape "$shape" --model "$model" "${sizes[@]}" \
                --method "$method" --graphs "$graphs"
            [ $graphs = false ] || peer "$shape/$method/peer" "$limit" --shape "$shape" --model "$model" "${sizes[@]}" --method "$method"
        done
    done
}

shared() { # SHAPE TOKENS PREFIX LENGTH LABELS SECONDS LIMIT: sequences with a common prefix, which the peer computes for each
    local shape=$1 model=$scratch/$1 n=$((($2 - $3) / ($4 - $3)))
    wanted "$shape" || return 0
    ours "$shape/sft/shared" "$7" --shape "$shape" --model "$model" --tokens "$2" --prefix "$3" --length "$4" --labels "$5" --seconds "$6"
    peer "$shape/sft/shared-peer" "$7" --shape "$shape" --model "$model" --tokens $((n * $4)) --length "$4" --labels "$5" --seconds "$6"
}

routing() { # SHAPE LINES FLAGS...
    wanted routing || return 0
    local base=${TUNESMITH_SMOLLM2:-$scratch/$1}
    [ -e "$base" ] || stage routing/model 60 "$here/bin/gpu_speed" --shape "$1" --model "$base" --tokenizer "$tokenizer" --write-only
    cp -r "$here/routing" "$scratch/routing"
    head -n "$2" "$here/routing/routing.jsonl" > "$scratch/routing/routing.jsonl"
    stage routing/finetune 60 "${on_gpu[@]}" "$here/bin/tunesmith" finetune --json --config "$scratch/routing/tunesmith.toml" \
        --base-model "$base" --device cuda "${@:3}"
}

# A run of a few steps under each tool, its launches one by one.
sanitizer() {
    wanted sanitizer || return 0
    local tool method program
    program=$(PATH=$PATH:$(printf '%s:' /usr/local/cuda*/bin) command -v compute-sanitizer || true)
    if [ -z "$dry" ] && [ -n "$program" ]; then
        stage sanitizer/model 20 "$here/bin/gpu_speed" --shape tiny --model "$scratch/tiny" \
            --tokenizer "$fixtures/golden/llama_tied/base" --write-only
    fi
    for tool in memcheck racecheck initcheck; do
        for method in sft dpo; do
            if [ -n "$dry" ]; then
                not_run "sanitizer/$tool-$method" "no compute-sanitizer on an emulated device"
            elif [ -z "$program" ]; then
                not_run "sanitizer/$tool-$method" "compute-sanitizer is neither on PATH nor under /usr/local/cuda*"
            else
                stage "sanitizer/$tool-$method" 60 "${on_gpu[@]}" "$program" --tool "$tool" --error-exitcode 9 \
                    "$here/bin/gpu_speed" --shape tiny --model "$scratch/tiny" ${libraries:+--cuda-libs "$libraries"} \
                    --method "$method" --graphs false --tokens 256 --length 64 --seconds 0
            fi
        done
    done
}

if [ -n "$dry" ]; then
    not_run machine/gpu "no nvidia-smi on an emulated device"
else
    facts=name,driver_version,memory.total,memory.used,clocks.sm,clocks.max.sm,clocks.max.memory,power.limit,mig.mode.current
    stage machine/gpu 20 nvidia-smi --query-gpu=$facts --format=csv
fi
stage machine/doctor 30 "${on_gpu[@]}" "$here/bin/tunesmith" doctor --json --device cuda
if [ -n "$dry" ]; then
    # One model of each kind; what the operations' tests take longest for is in the tests themselves.
    mkdir -p "$scratch/golden"
    cp -r "$fixtures/golden/llama_tied" "$fixtures/golden/bert" "$scratch/golden"
    stage parity/operations 120 "${on_gpu[@]}" "$here/bin/cuda" norms:: elementwise:: losses::
    stage parity/golden 120 "${on_gpu[@]}" "TUNESMITH_GOLDEN=$scratch/golden" "$here/bin/golden" on_the_gpu
    stage parity/training 120 "${on_gpu[@]}" "$here/bin/cuda_training" --exact dropped_inputs_are_those_of_the_cpu
    report
    speed tiny 256 64 0.2 60
    shared tiny 128 16 20 3 0.2 60
    routing tiny 12 --epochs 1
else
    # What is planted is for the emulator's checks. Of several trainings in one process cuBLASLt fails now and then.
    stage parity/operations 90 "${on_gpu[@]}" "$here/bin/cuda" --test-threads=1 --skip planted
    stage parity/golden 60 "${on_gpu[@]}" "TUNESMITH_GOLDEN=$fixtures/golden" "$here/bin/golden" on_the_gpu
    stage parity/training 60 "${on_gpu[@]}" "$here/bin/cuda_training" --test-threads=1
    report
    speed smollm2-135m 8192 512 3 45
    # What the 500 routing examples are on average, in SmolLM2's tokens.
    shared smollm2-135m 8192 158 179 5 3 45
    routing smollm2-135m 500
    rm -rf "$scratch/smollm2-135m"
    report
    for shape in qwen2.5-3b llama-3.1-8b; do
        speed "$shape" 8192 512 3 60
        rm -rf "${scratch:?}/$shape"
        report
    done
fi
sanitizer
report
cat "$out/results.md"
if ((${#wrong[@]})); then
    echo "failed, or not reached: ${wrong[*]}" >&2
    exit 1
fi
