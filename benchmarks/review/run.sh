#!/usr/bin/env bash
# run.sh: the tables of what a review costs. The store is made in the current folder: decisions wait for its disk.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
cargo build --quiet --release --manifest-path "$repository/Cargo.toml" --package tunesmith --bins --example review_costs
printf 'load before: %s\n\n' "$(cut -d ' ' -f 1-3 /proc/loadavg)"
"$repository/target/release/examples/review_costs" "$repository/target/release/tunesmith"
printf '\nload after: %s\n' "$(cut -d ' ' -f 1-3 /proc/loadavg)"
