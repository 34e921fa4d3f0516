# Sourced by the engines' `check.sh BINARY [PYTHON]`: what all of them begin and end with. Gives `here`, `root`, `binary`; `python`, which
# has the packages of the engine's requirements.txt: without one, it is made below target/; and a folder `work` for the time of the check.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
binary=$(realpath "${1:-$root/target/release/tunesmith}")
python=${2:-python3}
if [ $# -lt 2 ] && [ -e "$here/requirements.txt" ]; then
    venv=$root/target/$(basename "$here")-venv
    python=$venv/bin/python
    if [ ! -x "$python" ]; then
        python3 -m venv "$venv"
        "$python" -m pip install --quiet --requirement "$here/requirements.txt"
    fi
fi
work=$(mktemp -d)
# Whatever is mounted in there went with the namespace.
trap 'rm -rf "$work"' EXIT

# alone COMMAND...: with loopback alone, processes that end with it, and mounts that nobody else sees.
alone() {
    unshare -n -p -m -f --mount-proc --kill-child bash -euo pipefail -c 'ip link set lo up; "$@"' bash "$@"
}
