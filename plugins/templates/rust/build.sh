#!/usr/bin/env bash
# build.sh [OUT_DIR]: the component and its plugin.toml into OUT_DIR (default: dist).
# WASM_TOOLS is `wasm-tools`, if it is elsewhere than on the path.
set -euo pipefail
cd "$(dirname "$0")"
field() { sed -n "s/^$1 = \"\(.*\)\"$/\1/p" plugin.toml; }
out=${1:-dist} name=$(field name)
# Not wasm32-wasip2: its standard library imports WASI, and a plugin gets no import unless it asks for one.
cargo build --quiet --release --target wasm32-unknown-unknown
mkdir -p "$out"
core=${CARGO_TARGET_DIR:-target}/wasm32-unknown-unknown/release/${name//-/_}.wasm
"${WASM_TOOLS:-wasm-tools}" component new "$core" --output "$out/$name.wasm"
cp plugin.toml "$out/"
