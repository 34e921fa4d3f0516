#!/usr/bin/env bash
# build.sh [OUT_DIR]: the component and its plugin.toml into OUT_DIR (default: dist). TOOLS keeps what it installs.
# WITH_WASI=1 leaves the runtime's WASI imports in, and asks for them.
set -euo pipefail
cd "$(dirname "$0")"
field() { sed -n "s/^$1 = \"\(.*\)\"$/\1/p" plugin.toml; }
out=${1:-dist} tools=${TOOLS:-.tools}/python
[ -x "$tools/bin/componentize-py" ] || { python3 -m venv "$tools" && "$tools/bin/pip" install --quiet componentize-py==0.25.1; }
mkdir -p "$out"
stub=--stub-wasi wants=
[ -z "${WITH_WASI:-}" ] || stub= wants='"wasi", '
"$tools/bin/componentize-py" --quiet --wit-path wit --world "$(field kind)" componentize $stub plugin --output "$out/$(field name).wasm"
sed "s/^wants = \[/&$wants/" plugin.toml > "$out/plugin.toml"
