#!/usr/bin/env bash
# usage: check.sh TUNESMITH PYTHON GGUF   See README.md.
# PYTHON has the packages of requirements.txt; GGUF is SmolLM2-135M-Instruct.
set -euo pipefail
if [ $# -ne 3 ]; then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 1
fi
exec "$2" "$(dirname "$0")/check.py" "$1" "$3"
