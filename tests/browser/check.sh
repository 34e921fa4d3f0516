#!/usr/bin/env bash
# usage: check.sh TUNESMITH [SHOTS]
# Needs Debian's chromium and chromium-driver, which it installs where they are missing, and npm for axe-core. SHOTS gets a picture
# of every page.
set -euo pipefail
if [ $# -lt 1 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 1
fi
here=$(cd "$(dirname "$0")" && pwd)
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    apt-get update -qq
    apt-get install -qq --yes --no-install-recommends chromium chromium-driver
fi
fetched=$(mktemp -d)
trap 'rm -rf "$fetched"' EXIT
(cd "$fetched" && npm pack --silent axe-core@4.14.1 >/dev/null && tar xzf axe-core-*.tgz)
export TUNESMITH_BIN TUNESMITH_AXE="$fetched/package/axe.min.js"
TUNESMITH_BIN=$(realpath "$1")
if [ $# -gt 1 ]; then
    mkdir -p "$2"
    export TUNESMITH_SHOTS
    TUNESMITH_SHOTS=$(realpath "$2")
fi
cargo test --release --manifest-path "$here/Cargo.toml" -- --ignored
