#!/usr/bin/env bash
# Kills an SFT and a DPO run by SIGKILL at 20 seeded random moments each, resumes every one, and compares the adapters'
# bytes with those of runs that were left alone. Under a minute on two cores, after the build.
set -euo pipefail
cd "$(dirname "$0")/.."
# The whole workspace, as the other tests: the same features, so nothing is built again.
cargo test --release --workspace --test end_to_end -- --ignored --nocapture at_20_moments
