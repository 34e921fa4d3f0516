#!/usr/bin/env bash
# usage: cluster.sh FOLDER COMMAND...   Runs COMMAND beside a Slurm cluster of two nodes; loopback only, everything below FOLDER.
# The second node is a network namespace of its own: killing what runs there is losing the machine.
# COMMAND sees: SLURM_CONF, CLUSTER (this FOLDER, where it starts; `shared` is for artefacts), NODE2 (a process of the second node).
set -euo pipefail
if [ "$1" != --inside ]; then
    exec unshare -n -p -m -u -f --mount-proc --kill-child -- "$0" --inside "$@"
fi
shift
export CLUSTER=$1
shift
mkdir -p "$CLUSTER"/{log,shared,spool/n1,spool/n2,state}

hostname ctl
ip link set lo up
unshare -n -u sh -c "hostname n2; exec sleep infinity" &
export NODE2=$!
until [ "$(nsenter -t "$NODE2" -u hostname)" = n2 ]; do sleep 0.05; done
ip link add to-n2 type veth peer name to-n1
ip link set to-n1 netns "$NODE2"
ip addr add 10.98.0.1/24 dev to-n2
ip link set to-n2 up
nsenter -t "$NODE2" -n sh -c "ip link set lo up; ip addr add 10.98.0.2/24 dev to-n1; ip link set to-n1 up"

export SLURM_CONF=$CLUSTER/slurm.conf
cat >"$SLURM_CONF" <<CONF
ClusterName=tunesmith
SlurmctldHost=ctl(10.98.0.1)
AuthType=auth/munge
AuthInfo=socket=$CLUSTER/munge.sock
CredType=cred/munge
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$CLUSTER/state
SlurmdSpoolDir=$CLUSTER/spool/%n
SlurmctldPidFile=$CLUSTER/slurmctld.pid
SlurmdPidFile=$CLUSTER/slurmd.%n.pid
SlurmctldLogFile=$CLUSTER/log/slurmctld.log
SlurmdLogFile=$CLUSTER/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
GresTypes=gpu
MpiDefault=none
ReturnToService=2
# What would start a lost job again, were it not for --no-requeue.
JobRequeue=1
SlurmdTimeout=8
KillWait=20
MinJobAge=${MIN_JOB_AGE:-300}
NodeName=n1 NodeAddr=10.98.0.1 CPUs=2 RealMemory=4000 Gres=gpu:a10g:1
NodeName=n2 NodeAddr=10.98.0.2 CPUs=2 RealMemory=4000 Gres=gpu:a10g:1
PartitionName=both Nodes=n1,n2 Default=YES MaxTime=INFINITE
PartitionName=first Nodes=n1 MaxTime=INFINITE
PartitionName=second Nodes=n2 MaxTime=INFINITE
PartitionName=short Nodes=n1,n2 MaxTime=1
CONF
# Ranks look for GPUs where they are; Slurm only counts.
echo "Name=gpu Type=a10g File=/dev/null" >"$CLUSTER/gres.conf"

(umask 077 && head -c 128 /dev/urandom >"$CLUSTER/munge.key")
chmod 755 "$CLUSTER"
munged --force --key-file="$CLUSTER/munge.key" --socket="$CLUSTER/munge.sock" --pid-file="$CLUSTER/munged.pid" \
    --log-file="$CLUSTER/log/munged.log" --seed-file="$CLUSTER/munged.seed" --num-threads=2
slurmctld -i
slurmd -N n1
nsenter -t "$NODE2" -n -u slurmd -N n2
for _ in $(seq 150); do
    [ "$(sinfo --noheader --partition=both --format='%t %D' 2>/dev/null)" = "idle 2" ] && break
    sleep 0.2
done
sinfo --noheader --Node --partition=both --format='%N %t %G'
cd "$CLUSTER"
"$@"
