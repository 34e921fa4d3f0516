#!/usr/bin/env bash
# Prints one of the two commands of README.md's Quick start: `main` (the first `sh` block) or `tests` (the second).
set -euo pipefail
case "${1:-}" in
    main) want=1 ;;
    tests) want=2 ;;
    *) echo "usage: quickstart.sh main|tests" >&2; exit 1 ;;
esac
awk -v want="$want" '
    /^## / { in_section = ($0 == "## Quick start") }
    in_section && /^```sh$/ { block++; in_block = 1; next }
    /^```$/ { in_block = 0 }
    in_block && block == want
' "$(dirname "$0")/../README.md"
