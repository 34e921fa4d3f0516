#!/usr/bin/env bash
# usage: check.sh [BINARY [PYTHON]]   See README.md.
# Needs root, podman and crun. Without a python that has requirements.txt's packages, one is made below target/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../../..
binary=$(realpath "${1:-$root/target/release/tunesmith}")
venv=$root/target/sagemaker-venv
python=${2:-$venv/bin/python}
if [ $# -lt 2 ] && [ ! -x "$python" ]; then
    python3 -m venv "$venv"
    "$python" -m pip install --quiet -r "$here/requirements.txt"
fi
work=$(mktemp -d)
# Whatever is mounted in there went with the namespace.
trap 'rm -rf "$work"' EXIT
export PODMAN_ROOT=$work/podman
# Loopback alone, processes of its own that end with it, and mounts that nobody else sees.
unshare -n -p -m -f --mount-proc --kill-child bash -euo pipefail -c '
    here=$1 binary=$2 python=$3 work=$4
    ip link set lo up
    mount --make-rprivate /
    umount -R /sys/fs/cgroup 2>/dev/null || true
    mount -t cgroup2 none /sys/fs/cgroup
    "$here/image.sh" "$binary" "$work"
    "$python" "$here/check.py" "$binary" "$work"
' bash "$here" "$binary" "$python" "$work"
