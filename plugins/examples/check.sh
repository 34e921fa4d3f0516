#!/usr/bin/env bash
# check.sh TUNESMITH [WORK_DIR]: the examples give the records of `alpaca-formatter`, byte for byte, with WASI stubbed
# out and without; and every folder of `plugins new` builds and passes its tests.
set -euo pipefail
tunesmith=$(realpath "$1")
examples=$(cd "$(dirname "$0")" && pwd)
if [ -n "${2:-}" ]; then
    mkdir -p "$2" && work=$(cd "$2" && pwd)
else
    work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
fi
export XDG_CACHE_HOME=$work/cache TOOLS=$work/tools
say() { printf '%s (%s s)\n' "$*" "$SECONDS"; }

"$examples/build.sh" "$work"
say "examples built"

"$examples/corpus.py" > "$work/corpus.jsonl"
"$tunesmith" plugins test alpaca-formatter --fixtures "$work/corpus.jsonl" --expect "$work/records.jsonl" --update > "$work/rust.txt"
for plugin in "$work"/{c,javascript,javascript-with-wasi,python,python-with-wasi}/*.wasm; do
    name=$(basename "$(dirname "$plugin")")
    "$tunesmith" plugins test "$plugin" --fixtures "$work/corpus.jsonl" --expect "$work/records.jsonl" \
        > "$work/$name-test.txt" || { cat "$work/$name-test.txt" && exit 1; }
    say "$name: the records of alpaca-formatter"
done

for name in c javascript-with-wasi; do
    "$tunesmith" plugins check "$work/$name"/*.wasm > "$work/check.txt" || { cat "$work/check.txt" && exit 1; }
done

export WASM_TOOLS=${WASM_TOOLS:-${CARGO_TARGET_DIR:-$examples/../../target}/release/plugin-builder}
WASM_TOOLS=$(realpath "$WASM_TOOLS")
# The scaffolds lie outside of the repository, and would be built by whatever compiler is the default.
RUSTUP_TOOLCHAIN=$(cd "$examples/.." && rustup show active-toolchain | cut -d ' ' -f 1)
export RUSTUP_TOOLCHAIN
rustup target add wasm32-unknown-unknown 2> "$work/rustup.txt"
rm -rf "$work/new"
for scaffold in {formatter,extractor,policy}/{rust,python} formatter/{js,c}; do
    kind=${scaffold%/*} language=${scaffold#*/}
    name=my-$language-$kind folder=$work/new/$language-$kind
    "$tunesmith" plugins new "$kind" "$name" --lang "$language" --dir "$folder" > "$work/new.txt"
    CARGO_TARGET_DIR=$work/target "$folder/build.sh" > "$work/build.txt" 2>&1 || { cat "$work/build.txt" && exit 1; }
    "$tunesmith" plugins test "$folder/dist/$name.wasm" > "$work/new-test.txt" || { cat "$work/new-test.txt" && exit 1; }
    say "plugins new $kind --lang $language: builds, and passes its tests"
done
