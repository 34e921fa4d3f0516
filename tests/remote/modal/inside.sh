#!/usr/bin/env bash
# usage: inside.sh modal|own TUNESMITH PYTHON ROOT FOLDER   What check.sh runs in namespaces of its own: whatever it starts ends with them.
set -euo pipefail
worker=$1 tunesmith=$2 python=$3 root=$4 work=$5
trainers="$python $root/tests/remote/trainers.py"
export PYTHONDONTWRITEBYTECODE=1
port=8321
printf 'wk-of-the-test\nws-of-the-test\n' >"$work/key"

start() {
    if [ "$worker" = modal ]; then
        (cd "$root/deploy" && JOBS_DIR=$work/jobs TUNESMITH=$tunesmith MODAL_KEY=wk-of-the-test MODAL_SECRET=ws-of-the-test \
            exec "$python" -m uvicorn --factory modal_app:local --port $port --log-level warning) >>"$work/worker.log" 2>&1 &
    else
        "$tunesmith" serve --worker --listen 127.0.0.1:$port --store "$work/telemetry.sqlite" --jobs-dir "$work/jobs" \
            >>"$work/worker.log" 2>&1 &
    fi
    pid=$!
    for _ in $(seq 100); do
        if (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null; then return; fi
        sleep 0.1
    done
    cat "$work/worker.log"
    exit 1
}

# said WANT COMMAND...: the command must fail, and its last line must be WANT.
said() {
    local want=$1 is
    shift
    if "$@" >/dev/null 2>"$work/stderr"; then echo "FAIL  it succeeded: $*"; exit 1; fi
    is=$(tail -n 1 "$work/stderr")
    if [ "$is" != "$want" ]; then printf 'FAIL  it says\n  %s\nnot\n  %s\n' "$is" "$want"; exit 1; fi
    echo "ok    $want"
}

start
url=http://127.0.0.1:$port
if [ "$worker" = modal ]; then secret=key_file=\"$work/key\"; else secret=token_file=\"$work/jobs/worker.token\"; fi
printf '[remote.modal]\nurl = "%s"\n%s\n' "$url" "$secret" >"$work/remote.toml"
"$python" "$root/tests/remote/scenario.py" "$tunesmith" --remote "$work/remote.toml" --provider modal \
    --kill "$trainers --kill" --active "$trainers" || { cat "$work/worker.log"; exit 1; }

# A host of our own for the rest.
cp -r "$root/examples/quickstart/base" "$root/examples/quickstart/telemetry.jsonl" "$work"
config() { # config SECRET GPU
    printf '%s\n' 'project = "quickstart"' 'agent_type = "routing"' "base_model = \"$work/base\"" "output_dir = \"$work/out\"" \
        'batch_size = 8' 'backend = "remote"' 'backend_provider = "modal"' "gpu = \"$2\"" 'cpu = 1' 'memory = 512' \
        '[telemetry]' "store = \"$work/host.sqlite\"" "import = [\"$work/telemetry.jsonl\"]" \
        '[training]' 'checkpoint_steps = 5' '[compute]' 'device = "cpu"' 'threads = 1' \
        '[remote.modal]' "url = \"$url\"" "$1" >"$work/host.toml"
}
finetune() { "$tunesmith" finetune --config "$work/host.toml" "$@"; }

echo "== $worker: who is not known, and what is not there"
printf 'wk-of-nobody\nws-of-nobody\n' >"$work/other"
remedy="a worker's token is in \`remote.modal.token_file\` or TUNESMITH_WORKER_TOKEN, Modal's in \`remote.modal.key_file\` or MODAL_KEY and MODAL_SECRET"
if [ "$worker" = modal ]; then
    words="these are not the key and the secret of this worker (401)"
else
    words="this is not the worker's token: send \`Authorization: Bearer TOKEN\` with the one that its start names (401)"
fi
config "key_file = \"$work/other\"" none
said "error: worker at $url refuses the credentials: $words; $remedy" finetune
config "$secret" A10G
said "error: worker at $url can't run such a job: it has no GPU, and \`gpu\` is \`A10G\` (\`none\` trains on the processor); change \`gpu\`, \`gpu_count\`, \`cpu\`, \`memory\` or \`remote.nodes\`" finetune

echo "== $worker: killed and started again in the middle of a job, which goes on"
config "$secret" none
finetune --epochs 30 --json >"$work/report.json" 2>"$work/finetune.log" &
run=$!
for _ in $(seq 300); do
    if grep -q '"step":[1-9]' "$work"/jobs/*/out/heartbeat.json 2>/dev/null; then break; fi
    sleep 0.1
done
trainer=$($trainers)
kill -9 "$pid"
wait "$pid" 2>/dev/null || true
sleep 1
start
[ "$($trainers)" = "$trainer" ] || { echo "FAIL  the trainer did not go on"; exit 1; }
wait "$run" || { cat "$work/finetune.log" "$work/worker.log"; exit 1; }
"$python" - "$work/report.json" <<'PY'
import json
import sys

job = json.load(open(sys.argv[1]))["job"]
assert job["attempts"] == 1, job
print(f"ok    one attempt, {job['took_s']:.1f} s")
PY
[ -z "$($trainers)" ] || { echo "FAIL  a trainer is left"; exit 1; }
[ -z "$(find "$work/jobs" -name job.json)" ] || { echo "FAIL  a job is left"; exit 1; }
echo "ok    nothing is left running or lying there"
