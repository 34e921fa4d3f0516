#!/usr/bin/env bash
# usage: check.sh [BINARY [PYTHON]]   See README.md.
# Needs root, podman and crun. Without a python that has requirements.txt's packages, one is made below target/.
. "$(dirname "$0")/../setup.sh"
export PODMAN_ROOT=$work/podman
alone bash -euo pipefail -c '
    here=$1 binary=$2 python=$3 work=$4
    mount --make-rprivate /
    umount -R /sys/fs/cgroup 2>/dev/null || true
    mount -t cgroup2 none /sys/fs/cgroup
    "$here/image.sh" "$binary" "$work"
    "$python" "$here/check.py" "$binary" "$work"
' bash "$here" "$binary" "$python" "$work"
