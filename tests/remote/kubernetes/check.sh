#!/usr/bin/env bash
# The Kubernetes backend against a real control plane (API server, controllers, scheduler, etcd) with a stand-in for the kubelet.
#   check.sh BINARY [PYTHON]
# The control plane is built once, into KUBERNETES_CACHE: ten minutes of processor, 2 GB. Everything runs in namespaces of its own:
# loopback only, and nothing outlives it.
. "$(dirname "$0")/../setup.sh"
cache=${KUBERNETES_CACHE:-/var/cache/tunesmith-kubernetes}
"$here/build.sh" "$cache"
alone bash -euo pipefail -c '
    here=$1 binary=$2 python=$3 work=$4 bin=$5
    # The API server does not tell others of a loopback address.
    ip address add 10.254.0.1/32 dev lo
    "$python" "$here/cluster.py" "$bin" "$work" "$binary" &
    until [[ -e $work/ready ]]; do kill -0 $!; sleep 0.1; done
    "$python" "$here/engine_check.py" "$binary" "$work"
    "$python" "$here/../scenario.py" "$binary" --provider kubernetes --remote "$work/remote.toml" \
        --kill "$python $here/hooks.py $work kill" --active "$python $here/hooks.py $work active"
' bash "$here" "$binary" "$python" "$work" "$cache/bin"
