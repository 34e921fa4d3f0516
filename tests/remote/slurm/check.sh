#!/usr/bin/env bash
# usage: check.sh BINARY   The scenario of remote backends against a real Slurm of two nodes, and what only Slurm can show.
# Packages: slurm-wlm munge openssh-server iproute2. Must be root: the nodes are network namespaces.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" != --beside ]; then
    binary=$(realpath "${1:-$here/../../../target/release/tunesmith}")
    cluster=$(mktemp -d)
    trap 'rm -rf "$cluster"' EXIT
    MIN_JOB_AGE=5 "$here/cluster.sh" "$cluster" "$here/check.sh" --beside "$binary"
    exit
fi
binary=$2
cd "$CLUSTER"
mkdir shared
cat >fragment.toml <<TOML
[remote]
artefacts = "file://$CLUSTER/shared"
[remote.slurm]
partition = "both"
TOML
python3 "$here/../scenario.py" "$binary" --provider slurm --remote fragment.toml --figures "${FIGURES:-figures.json}" \
    --kill "$here/kill_trainer.sh" \
    --active "squeue --noheader --format=%j --states=PENDING,CONFIGURING,RUNNING,COMPLETING"
python3 "$here/check.py" "$binary"
