#!/usr/bin/env bash
# usage: check.sh TUNESMITH [PYTHON]   Both workers, each in a network of its own: `deploy/modal_app.py` under uvicorn, and
# `tunesmith serve --worker`. Each plays the scenario of all engines; then what only they can show.
# Without a python that has requirements.txt's packages, one is made below target/ (60 MB). Two minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
tunesmith=$(realpath "${1:?usage: check.sh TUNESMITH [PYTHON]}")
python=${2:-$root/target/modal-venv/bin/python}
if [ $# -lt 2 ] && [ ! -x "$python" ]; then
    python3 -m venv "$root/target/modal-venv"
    "$python" -m pip install --quiet --requirement "$here/requirements.txt"
fi

echo "== the options that Modal is given are ones that its client takes"
(cd "$root/deploy" && TUNESMITH=$tunesmith PYTHONDONTWRITEBYTECODE=1 "$python" - <<'PY')
import inspect

import modal
import modal_app

asked = {"gpu": "A10G", "gpu_count": 2, "nodes": 1, "cpu": 4, "memory_mib": 16384}
options = modal_app.Functions.options(asked, 3600)
inspect.signature(modal.Function.with_options).bind(None, **options)
assert options == {"gpu": "A10G:2", "cpu": 4.0, "memory": 16384, "timeout": 3780}, options
assert modal_app.Functions.options(asked | {"gpu": None}, 86400)["timeout"] == 86400
PY

for worker in modal own; do
    echo "== $worker: the scenario"
    unshare -n -p -m -f --mount-proc --kill-child \
        bash "$here/inside.sh" "$worker" "$tunesmith" "$python" "$root"
done
