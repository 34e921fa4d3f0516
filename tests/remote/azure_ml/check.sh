#!/usr/bin/env bash
# usage: check.sh [BINARY [PYTHON [AZURITE]]]   See README.md.
# Without a python that has requirements.txt's packages, or without Azurite's folder, they are made below target/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../../..
binary=$(realpath "${1:-$root/target/release/tunesmith}")
venv=$root/target/azure-venv
python=${2:-$venv/bin/python}
azurite=${3:-$root/target/azurite}
if [ $# -lt 2 ] && [ ! -x "$python" ]; then
    python3 -m venv "$venv"
    "$python" -m pip install --quiet -r "$here/requirements.txt"
fi
if [ ! -x "$azurite/node_modules/.bin/azurite-blob" ]; then
    npm install --silent --no-fund --no-audit --prefix "$azurite" azurite@3
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" "$here/record.py" --check
# Loopback alone, and processes of its own that end with it.
unshare -n -p -m -f --mount-proc --kill-child bash -euo pipefail -c '
    ip link set lo up
    "$3" "$1/check.py" "$2" "$5" "$4/node_modules/.bin/azurite-blob"
' bash "$here" "$binary" "$python" "$azurite" "$work"
