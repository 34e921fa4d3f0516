#!/usr/bin/env bash
# build.sh [OUT_DIR]: the component and its plugin.toml into OUT_DIR (default: dist). TOOLS keeps what it installs.
# WASM_TOOLS is `wasm-tools`, if it is elsewhere than on the path.
set -euo pipefail
cd "$(dirname "$0")"
field() { sed -n "s/^$1 = \"\(.*\)\"$/\1/p" plugin.toml; }
out=${1:-dist} tools=${TOOLS:-.tools}/c
[ -x "$tools/bin/python-zig" ] || { python3 -m venv "$tools" && "$tools/bin/pip" install --quiet ziglang==0.17.1; }
mkdir -p "$out"
core=$(mktemp)
trap 'rm -f "$core"' EXIT
# A reactor: a library without a `main`. Nothing in it calls WASI, so that the component has no import. Its stack is a
# part of its memory, which every call gets anew: 64 KiB of it, not 16 MiB.
"$tools/bin/python-zig" cc -target wasm32-wasi -mexec-model=reactor -O2 -s -Wall -Wextra -Werror \
    -Wl,-z,stack-size=65536 plugin.c bindings/formatter.c bindings/formatter_component_type.o -o "$core"
"${WASM_TOOLS:-wasm-tools}" component new "$core" --output "$out/$(field name).wasm"
cp plugin.toml "$out/"
