#!/usr/bin/env bash
# build.sh OUT_DIR: every example as a component, in OUT_DIR/<language>; what that installs is kept in OUT_DIR/tools.
# WASM_TOOLS is a `wasm-tools`; without it the repository's own encoder is used.
set -euo pipefail
examples=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
export TOOLS=$out/tools
if [ -z "${WASM_TOOLS:-}" ]; then
    (cd "$examples" && cargo build --quiet --release --package plugin-builder --manifest-path ../../Cargo.toml)
    export WASM_TOOLS=${CARGO_TARGET_DIR:-$examples/../../target}/release/plugin-builder
fi
for language in python javascript c; do
    "$examples/$language/build.sh" "$out/$language"
done
for language in python javascript; do
    WITH_WASI=1 "$examples/$language/build.sh" "$out/$language-with-wasi"
done
