#!/usr/bin/env bash
# usage: cluster.sh FOLDER PYTHON COMMAND...   Runs COMMAND beside a Ray cluster of two nodes with one (pretended) GPU each; loopback
# only, everything below FOLDER. PYTHON has Ray. The second node is a network namespace of its own: killing what runs there is losing
# the machine.
# COMMAND sees: CLUSTER (this FOLDER, where it starts; `shared` is for artefacts), NODE2 (a process of the second node), RAY_URL, and
# `start_head`, `start_node2` in the PATH.
# With RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH set, the cluster asks for that token.
set -euo pipefail
if [ "$1" != --inside ]; then
    exec unshare -n -p -m -f --mount-proc --kill-child -- "$0" --inside "$@"
fi
shift
export CLUSTER=$1
bin=$(dirname "$2")
shift 2
# Ray's sockets have long names below it, and a socket's has at most 107 characters.
mkdir -p "$CLUSTER"/{1,2,bin,log,shared}
export PATH=$CLUSTER/bin:$bin:$PATH RAY_USAGE_STATS_ENABLED=0 RAY_DISABLE_DOCKER_CPU_WARNING=1
export RAY_ADDRESS_GCS=10.99.0.1:6399 RAY_URL=http://127.0.0.1:8266

ip link set lo up
unshare -n sleep infinity &
export NODE2=$!
until [ "$(readlink /proc/$NODE2/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link add to-n2 type veth peer name to-n1
ip link set to-n1 netns "$NODE2"
ip addr add 10.99.0.1/24 dev to-n2
ip link set to-n2 up
nsenter -t "$NODE2" -n sh -c "ip link set lo up; ip addr add 10.99.0.2/24 dev to-n1; ip link set to-n1 up"

cat >"$CLUSTER/bin/start_head" <<'SH'
#!/bin/sh
exec ray start --head --node-ip-address=10.99.0.1 --port=6399 --dashboard-host=127.0.0.1 --dashboard-port=8266 \
    --num-cpus=1 --num-gpus=1 --resources='{"accelerator_type:A10G": 1}' --memory=2000000000 --object-store-memory=100000000 \
    --temp-dir="$CLUSTER/1" --disable-usage-stats >>"$CLUSTER/log/head.log" 2>&1
SH
cat >"$CLUSTER/bin/start_node2" <<'SH'
#!/bin/sh
exec nsenter -t "$NODE2" -n ray start --address="$RAY_ADDRESS_GCS" --node-ip-address=10.99.0.2 \
    --num-cpus=1 --num-gpus=1 --resources='{"accelerator_type:A10G": 1}' --memory=2000000000 --object-store-memory=100000000 \
    --temp-dir="$CLUSTER/2" --disable-usage-stats >>"$CLUSTER/log/node2.log" 2>&1
SH
chmod +x "$CLUSTER"/bin/*
start_head || { cat "$CLUSTER/log/head.log"; exit 1; }
start_node2 || { cat "$CLUSTER/log/node2.log"; exit 1; }
cd "$CLUSTER"
"$@"
