"""Runs a program as the ranks of one training, on machines that Ray gives all at once or not at all.

    tunesmith_gang.py --nodes N --ranks R --cpus C --gpus G --memory BYTES [--resource NAME] --wait SECONDS -- PROGRAM ARGS...

R ranks on each of N machines, each of which has C processors, G GPUs and BYTES. They find each other by the variables that
torchrun sets. Ends with the first exit code that is not 0, with 69 where no such machines came in time, with 76 where a rank is lost.
A SIGTERM is handed on.
"""
import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

NO_PLACE, LOST = 69, 76
PR_SET_PDEATHSIG = 1


def die_with_parent():
    # An actor that is killed must not leave a rank that holds a GPU.
    ctypes.CDLL("libc.so.6").prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# Two calls at once: one waits for the rank, the other may stop it.
@ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=2)
class Rank:
    def __init__(self):
        self.process = None
        self.lock = threading.Lock()
        self.is_stopped = False

    def place(self):
        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1], [str(gpu) for gpu in ray.get_gpu_ids()]

    def run(self, command, variables):
        with self.lock:
            if self.is_stopped:
                return 75
            self.process = subprocess.Popen(command, env={**os.environ, **variables}, preexec_fn=die_with_parent)
        return self.process.wait()

    def stop(self):
        with self.lock:
            self.is_stopped = True
            if self.process:
                self.process.terminate()


def main():
    parser = argparse.ArgumentParser()
    for name in ("nodes", "ranks", "cpus", "gpus", "memory", "wait"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--resource")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()

    ray.init(address="auto", log_to_driver=True)
    stopped = threading.Event()
    # Ray has set one of its own by now, which would end this at once.
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())

    machine = {"CPU": args.cpus, "memory": args.memory}
    if args.gpus:
        machine["GPU"] = args.gpus
    if args.resource:
        machine[args.resource] = 0.001
    # Two of one machine's size never share one.
    group = placement_group([machine] * args.nodes, strategy="STRICT_SPREAD")
    for _ in range(args.wait):
        if stopped.is_set():
            sys.exit(75)
        if group.wait(1):
            break
    else:
        print(f"no room for {args.nodes} x {machine} within {args.wait} s; the cluster has {ray.cluster_resources()}", flush=True)
        sys.exit(NO_PLACE)

    def rank(index):
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        # Ray takes parts of one, and whole ones, but not one and a half.
        cpus = args.cpus / args.ranks if args.cpus < args.ranks else args.cpus // args.ranks
        share = {"num_cpus": cpus, "memory": args.memory // args.ranks, "num_gpus": args.gpus // args.ranks}
        return Rank.options(scheduling_strategy=place, **share).remote()

    ranks = [rank(node) for node in range(args.nodes) for _ in range(args.ranks)]
    places = ray.get([rank.place.remote() for rank in ranks])
    address, port, _ = places[0]
    print(f"{len(ranks)} ranks on {args.nodes} machines, the first at {address}:{port}", flush=True)
    runs = []
    for index, rank in enumerate(ranks):
        first = index - index % args.ranks
        # All GPUs of the machine, in one order: LOCAL_RANK picks, as everywhere.
        gpus = [gpu for _, _, gpus in places[first:first + args.ranks] for gpu in gpus]
        variables = {"RANK": str(index), "WORLD_SIZE": str(len(ranks)), "LOCAL_RANK": str(index % args.ranks),
                     "MASTER_ADDR": address, "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        runs.append(rank.run.remote(args.command, variables))

    told = False
    while runs:
        done, runs = ray.wait(runs, num_returns=1, timeout=0.5)
        if stopped.is_set() and not told:
            told = True
            ray.get([rank.stop.remote() for rank in ranks])
        for run in done:
            try:
                code = ray.get(run)
            except ray.exceptions.RayError as error:
                print(f"a rank is lost: {error}", flush=True)
                code = LOST
            # Nobody answers the others any more: they end with this process.
            if code and not stopped.is_set():
                sys.exit(code if code > 0 else 128 - code)
    sys.exit(75 if stopped.is_set() else 0)


main()
