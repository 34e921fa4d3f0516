#!/usr/bin/env bash
# usage: check.sh [BINARY [PYTHON]]   See README.md.
# Without a python that has requirements.txt's packages, one is made below target/ (850 MB).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=${1:-$here/../../target/release/tunesmith}
venv=$here/../../target/phoenix-venv
python=${2:-$venv/bin/python}
if [ $# -lt 2 ] && [ ! -x "$python" ]; then
    python3 -m venv "$venv"
    "$python" -m pip install --quiet -r "$here/requirements.txt"
fi
"$python" "$here/check.py" "$binary"
exec "$python" "$here/review.py" "$binary"
