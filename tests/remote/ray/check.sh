#!/usr/bin/env bash
# usage: check.sh BINARY [PYTHON]   The scenario of remote backends against a real Ray of two nodes, and what only Ray can show.
# PYTHON has the packages of requirements.txt; without one, they go to target/ray-venv (400 MB). Package: iproute2. Must be root: the
# nodes are network namespaces.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" != --beside ]; then
    binary=$(realpath "${1:-$here/../../../target/release/tunesmith}")
    venv=$here/../../../target/ray-venv
    python=${2:-$venv/bin/python}
    if [ $# -lt 2 ] && [ ! -x "$python" ]; then
        python3 -m venv "$venv"
        "$python" -m pip install --quiet -r "$here/requirements.txt"
    fi
    cluster=$(mktemp -d -t ray-XXXX)
    trap 'rm -rf "$cluster"' EXIT
    (umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$cluster/token")
    RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$cluster/token "$here/cluster.sh" "$cluster" "$python" \
        "$here/check.sh" --beside "$binary"
    exit
fi
binary=$2
cd "$CLUSTER"
mkdir shared
cat >fragment.toml <<TOML
[remote]
artefacts = "file://$CLUSTER/shared"
[remote.ray]
url = "$RAY_URL"
token_file = "$CLUSTER/token"
TOML
python3 "$here/../scenario.py" "$binary" --provider ray --remote fragment.toml --figures "${FIGURES:-figures.json}" \
    --kill "$here/kill_trainer.sh" --active "python3 $here/active.py"
python3 "$here/check.py" "$binary"
