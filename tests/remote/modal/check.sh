#!/usr/bin/env bash
# usage: check.sh BINARY [PYTHON]   Both workers, each in a network of its own: `deploy/modal_app.py` under uvicorn, and
# `tunesmith serve --worker`. Each plays the scenario of all engines; then what only they can show.
# Without a python that has requirements.txt's packages, one is made below target/ (60 MB). Two minutes.
. "$(dirname "$0")/../setup.sh"

echo "== the options that Modal is given are ones that its client takes"
(cd "$root/deploy" && TUNESMITH=$binary PYTHONDONTWRITEBYTECODE=1 "$python" - <<'PY')
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
    mkdir "$work/$worker"
    alone bash "$here/inside.sh" "$worker" "$binary" "$python" "$root" "$work/$worker"
done
