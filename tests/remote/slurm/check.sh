#!/usr/bin/env bash
# usage: check.sh BINARY   The scenario of remote backends against a real Slurm of two nodes, and what only Slurm can show.
# Packages: slurm-wlm munge openssh-server iproute2. Must be root: the nodes are network namespaces.
. "$(dirname "$0")/../setup.sh"
MIN_JOB_AGE=5 "$here/cluster.sh" "$work" "$python" "$here/check.py" "$binary"
