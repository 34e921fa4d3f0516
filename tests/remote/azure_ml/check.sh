#!/usr/bin/env bash
# usage: check.sh [BINARY [PYTHON [AZURITE]]]   See README.md.
# Without a python that has requirements.txt's packages, or without Azurite's folder, they are made below target/.
. "$(dirname "$0")/../setup.sh"
azurite=${3:-$root/target/azurite}
program=$azurite/node_modules/.bin/azurite-blob
if [ ! -x "$program" ]; then
    npm install --silent --no-fund --no-audit --prefix "$azurite" azurite@3
fi
"$python" "$here/record.py" --check
alone "$python" "$here/check.py" "$binary" "$work" "$program"
