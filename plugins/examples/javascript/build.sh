#!/usr/bin/env bash
# build.sh [OUT_DIR]: the component and its plugin.toml into OUT_DIR (default: dist). TOOLS keeps what it installs.
# WITH_WASI=1 leaves the runtime's WASI imports in, and asks for them.
set -euo pipefail
cd "$(dirname "$0")"
field() { sed -n "s/^$1 = \"\(.*\)\"$/\1/p" plugin.toml; }
out=${1:-dist} tools=${TOOLS:-.tools}/javascript
bin=$tools/node_modules/.bin/componentize-qjs
[ -x "$bin" ] || npm install --silent --no-audit --no-fund --prefix "$tools" componentize-qjs@0.4.5
mkdir -p "$out"
stub=--stub-wasi wants=
[ -z "${WITH_WASI:-}" ] || stub= wants='"wasi", '
"$bin" --wit wit --world "$(field kind)" --js plugin.js --sync --opt-size $stub \
    --output "$out/$(field name).wasm" > /dev/null
sed "s/^wants = \[/&$wants/" plugin.toml > "$out/plugin.toml"
