#!/usr/bin/env bash
# The Kubernetes backend against a real control plane (API server, controllers, scheduler, etcd) with a stand-in for the kubelet.
#   check.sh TUNESMITH [PYTHON]
# The control plane is built once, into KUBERNETES_CACHE: ten minutes of processor, 2 GB. Everything runs in namespaces of its own:
# loopback only, and nothing outlives it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [[ ${1-} != --inside ]]; then
  tunesmith=$(realpath "${1:?usage: check.sh TUNESMITH [PYTHON]}")
  cache=${KUBERNETES_CACHE:-/var/cache/tunesmith-kubernetes}
  "$here/build.sh" "$cache"
  exec unshare -n -p -m -f --mount-proc --kill-child "$here/check.sh" --inside "$cache/bin" "$tunesmith" "${2:-python3}"
fi
bin=$2 tunesmith=$3 python=$4
ip link set lo up
# The API server does not tell others of a loopback address.
ip address add 10.254.0.1/32 dev lo
state=$(mktemp -d)
trap 'rm -rf --one-file-system "$state"' EXIT
"$python" "$here/cluster.py" "$bin" "$state" &
until [[ -e $state/ready ]]; do kill -0 $!; sleep 0.1; done

"$python" "$here/engine_check.py" "$tunesmith" "$state"
"$python" "$here/../scenario.py" "$tunesmith" --provider kubernetes --remote "$state/remote.toml" \
  --kill "$python $here/hooks.py $state kill" --active "$python $here/hooks.py $state active" --figures "$state/figures.json"
