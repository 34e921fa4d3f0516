"""check.py BINARY: the scenario, and what only Ray can show, beside a cluster that cluster.sh has made."""
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from engine_check import EngineCheck, kill, processes  # noqa: E402
from scenario import run  # noqa: E402

CLUSTER = pathlib.Path(os.environ["CLUSTER"])
URL = os.environ["RAY_URL"]
TOKEN = CLUSTER / "token"
EPOCHS = 6


def fragment(token=TOKEN, url=URL, remote=""):
    return f'[remote]\nartefacts = "file://{CLUSTER}/shared"\n{remote}[remote.ray]\nurl = "{url}"\ntoken_file = "{token}"\n'


def ask(path, method="GET"):
    request = urllib.request.Request(URL + path, method=method, headers={"Authorization": f"Bearer {TOKEN.read_text()}"})
    return json.load(urllib.request.urlopen(request, timeout=60))


def refusals(check):
    wrong = CLUSTER / "wrong-token"
    wrong.write_text("0" * 64)
    check.remote(fragment(wrong))
    check.fails("a wrong token", says=[f"ray at {URL} refuses the credentials", "remote.ray.token_file"])
    check.remote(fragment(CLUSTER / "nothing"))
    check.fails("no token", says=["refuses the credentials", "cannot be read"])
    check.remote(fragment().replace("artefacts", "# artefacts"))
    check.fails("no artefact store", says=["`remote.artefacts`: is not set"])
    # Ray takes such a job, and would let it wait for ever, and an autoscaler look for machines.
    check.remote(fragment(remote="queue_timeout = 5\n"))
    check.fails("a GPU that no node has", "--gpu", "H100", says=["can't be scheduled", "it waited 5 s for a machine"])
    check.fails("more GPUs than a node has", "--gpu", "A10G", "--gpu-count", "8",
                says=["can't be scheduled", "within 5 s; the cluster has {"])
    check.remote(fragment())


def block(check, address):
    """A job of somebody else's that has the only processor of a node."""
    name = f"blocker-{address.replace('.', '-')}-{time.monotonic_ns()}"
    body = {"submission_id": name, "entrypoint": "sleep 1000", "entrypoint_num_cpus": 1,
            "entrypoint_resources": {f"node:{address}": 0.001}}
    headers = {"Authorization": f"Bearer {TOKEN.read_text()}", "Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{URL}/api/jobs/", json.dumps(body).encode(), headers), timeout=60)
    check.wait("a blocker", lambda: ask(f"/api/jobs/{name}")["status"] == "RUNNING")
    return name


def unblock(check, name):
    ask(f"/api/jobs/{name}/stop", "POST")
    check.wait("a free node", lambda: ask(f"/api/jobs/{name}")["status"] == "STOPPED")


def cancelled_before_it_began(check, local):
    """A job that waits is cancelled while the only nodes are taken, and never runs, not even when they are free."""
    check.forget()
    blockers = [block(check, address) for address in ("10.99.0.1", "10.99.0.2")]
    running = check.start(2)
    key = check.key()
    check.wait("a job that waits", lambda: f"{key}-1" in check.active())
    check.cancel("cancelled while it waits", key, running)
    job = ask(f"/api/jobs/{key}-1")
    check.check(f"cancelled while it waits: {job['status']} at Ray", job["status"] in ("FAILED", "STOPPED"))
    for name in blockers:
        unblock(check, name)
    time.sleep(5)
    log = ask(f"/api/jobs/{key}-1/logs")["logs"]
    check.check("cancelled while it waits: it never ran", "Running entrypoint" not in log and not any(processes(False, "tunesmith train")))
    report, _ = check.finetune(2)
    check.check("cancelled while it waits: the same command submits it anew", report["job"]["attempts"] == 2)
    check.same_bytes("cancelled while it waits", local, report)


def node_lost(check, local):
    """The second node is gone at once; the next attempt goes on from the checkpoint, on the first."""
    check.forget()
    blocker = block(check, "10.99.0.1")
    running = check.start(EPOCHS)
    check.wait_for_step(check.key(), 12)
    unblock(check, blocker)
    check.check("a lost node: the second one trains", any(processes(True, "tunesmith train")))
    kill(processes(True))
    check.without_its_node(running, local)
    subprocess.run(["start_node2"], check=True)


def head_restarts(check, local):
    """A head without a store of its own forgets every job when it is started anew."""
    check.forget()
    running = check.start(EPOCHS)
    check.wait_for_step(check.key(), 8)
    for part in ("gcs_server", "raylet", "dashboard", "ray::", "log_monitor", "tunesmith train", "runtime_env"):
        kill([*processes(False, part), *processes(True, part)])
    time.sleep(2)
    subprocess.run(["start_head"], check=True)
    subprocess.run(["start_node2"], check=True)
    failure = check.goes_on("a new head", running, local)
    check.check(f"a new head: {failure['message']}", "knows no job" in failure["message"])


def own(check):
    refusals(check)
    short, _ = check.finetune(2, remote=False)
    cancelled_before_it_began(check, short)
    check.two_ranks(short, fragment(remote="nodes = 2\n"))
    long, _ = check.finetune(EPOCHS, remote=False)
    node_lost(check, long)
    head_restarts(check, long)


if __name__ == "__main__":
    run(lambda: EngineCheck(sys.argv[1], "ray", fragment(), f"{sys.executable} {HERE / 'active.py'}"), EngineCheck.play, own)
