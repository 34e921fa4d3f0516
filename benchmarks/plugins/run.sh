#!/usr/bin/env bash
# run.sh [EXAMPLES_DIR]: the table of plugin costs. EXAMPLES_DIR is what plugins/examples/build.sh made; without it,
# it is made.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
examples=${1:-$work/examples}
[ -n "${1:-}" ] || plugins/examples/build.sh "$examples" > /dev/null
cargo build --quiet --release --package tunesmith --example plugin_costs
printf 'load before: %s\n\n' "$(cut -d ' ' -f 1-3 /proc/loadavg)"
# An empty cache: what is compiled is compiled here.
XDG_CACHE_HOME=$work/cache target/release/examples/plugin_costs C="$examples/c/alpaca-c.wasm" \
    JavaScript="$examples/javascript/alpaca-javascript.wasm" Python="$examples/python/alpaca-python.wasm"
printf '\nload after: %s\n' "$(cut -d ' ' -f 1-3 /proc/loadavg)"
