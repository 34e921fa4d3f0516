"""engine_check.py TUNESMITH STATE: what only this engine can show: refusals, quotas, images, a job that others meddle with, a server that
goes away. In the end nothing runs, and nothing is left of jobs that were done."""
import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import s3  # noqa: E402
from api import NAMESPACE, Api  # noqa: E402
from scenario import LONG, SHORT, Scenario  # noqa: E402

TUNESMITH, STATE = sys.argv[1], pathlib.Path(sys.argv[2])
HOOKS = f"{sys.executable} {pathlib.Path(__file__).parent / 'hooks.py'} {STATE}"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
api = Api(STATE)


@contextlib.contextmanager
def place(**options):
    """A folder, a configuration and a store of jobs of its own; `options` are of `[remote]`, those with `__` of `[remote.kubernetes]`,
    and one that is None is left out."""
    lines = (STATE / "remote.toml").read_text().splitlines()
    for key, value in options.items():
        table, key = ("[remote.kubernetes]", key[2:]) if key.startswith("__") else ("[remote]", key)
        lines = [line for line in lines if not line.startswith(f"{key} =")]
        if value is not None:
            lines.insert(lines.index(table) + 1, f"{key} = {value}")
    path = STATE / "case.toml"
    path.write_text("\n".join(lines) + "\n")
    scenario = Scenario(argparse.Namespace(
        tunesmith=TUNESMITH, remote=str(path), provider="kubernetes", kill=f"{HOOKS} kill", active=f"{HOOKS} active"))
    scenario.failures = failures
    try:
        yield scenario
    finally:
        shutil.rmtree(scenario.work)


def refused(scenario, what, *words, epochs=SHORT):
    """The run fails with all of `words` in its error, and nothing is left running."""
    _, told = scenario.run("finetune", "--epochs", str(epochs), code=1)
    missing = [word for word in words if word not in told]
    scenario.check(f"{what}: it says so", not missing)
    if missing:
        print(f"  lacks {missing}:\n  {told.strip().splitlines()[-1]}")
    scenario.idle()


def clear():
    for job in api.jobs():
        api.call("DELETE", f"{JOBS}/{job['metadata']['name']}?propagationPolicy=Background")


failures = []
with place(__kubeconfig=f'"{STATE}/wrong.kubeconfig"') as at:
    refused(at, "a wrong token", "refuses the credentials: Unauthorized; log in anew")
with place(__kubeconfig=f'"{STATE}/nobody.kubeconfig"') as at:
    refused(at, "an account without rights", 'User "nobody" cannot', "deploy/kubernetes/rbac.yaml")
with place(__kubeconfig=f'"{STATE}/no-such-file"') as at:
    refused(at, "a missing kubeconfig", "`remote.kubernetes.kubeconfig`", "no-such-file")
with place(__namespace='"nowhere"') as at:
    refused(at, "another namespace", "refuses the credentials", 'in the namespace "nowhere"')

with place(queue_timeout="4") as at:
    os.environ |= {"TUNESMITH_GPU": "A10G", "TUNESMITH_GPU_COUNT": "8"}
    refused(at, "GPUs that no node has", "can't be scheduled", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu")
    del os.environ["TUNESMITH_GPU"], os.environ["TUNESMITH_GPU_COUNT"]
clear()

quota = f"/api/v1/namespaces/{NAMESPACE}/resourcequotas"
api.call("POST", quota, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
                         "spec": {"hard": {"count/jobs.batch": "0"}}})
with place() as at:
    at.wait("the quota", lambda: api.call("GET", f"{quota}/none")["status"].get("used"))
    refused(at, "a quota", "can't run such a job", "exceeded quota: none")
api.call("DELETE", f"{quota}/none")

with place(max_attempts="1", __image='"registry.example.com/nope:1"') as at:
    refused(at, "an image that is not there", "could not start", 'ImagePullBackOff: Back-off pulling image "registry.example.com/nope:1"')
    job = at.jobs()[0]["key"]
    foreign = api.jobs()[0]
    foreign = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"{job}-2"},
               "spec": {"parallelism": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [
                   {"name": "other", "image": "other"}]}}}}
    api.call("POST", JOBS, foreign)
    refused(at, "a name that is taken", f"has a job `{job}-2` already, of another bundle", "it has no digest")
    at.check("a name that is taken: the other job is left alone", api.call("GET", f"{JOBS}/{job}-2") is not None)
clear()

with place(nodes="2") as at:
    refused(at, "several machines on an old cluster", "take an indexed job, which Kubernetes has from 1.21 on")
    services = api.list(f"/api/v1/namespaces/{NAMESPACE}/services")
    at.check("several machines on an old cluster: no service is left", services == [])
clear()

with place() as at:
    running = at.start(LONG)
    key = at.key()
    at.wait_for_step(key, 6)
    (STATE / "out-of-memory").touch()
    subprocess.run(f"{HOOKS} kill", shell=True, check=True)
    at.check("killed for memory: the run ends", running.wait(60) == 1)
    at.check("killed for memory: it says so", "failed (out of memory): OOMKilled, exit code 137" in at.log())
    at.check("killed for memory: no other attempt", len(at.jobs()[0]["attempts"]) == 1)
    (STATE / "out-of-memory").unlink()

    running = at.start(LONG)
    at.wait("an attempt", lambda: len(at.jobs()[0]["attempts"]) == 2 and at.jobs()[0]["attempts"][1]["handle"])
    at.wait_for_step(key, 12)
    (STATE / "restart").touch()
    at.wait("a new API server", lambda: not (STATE / "restart").exists())
    at.wait_for_step(key, 18)
    # Somebody removes the job behind our back.
    api.call("DELETE", f"{JOBS}/{key}-2?propagationPolicy=Background")
    ended_well = running.wait(240) == 0
    at.check("a restarted server, a removed job: the run ends well", ended_well)
    if not ended_well:
        sys.exit(at.log())
    attempts = at.jobs()[0]["attempts"]
    at.check("a restarted server: no attempt was lost to it", len(attempts) == 3)
    if len(attempts) != 3:
        print(at.log())
    at.check("a removed job: it says so", "knows no job" in at.log())
    at.idle()
    at.check("a job that is done: nothing is left of its attempts", [job for job in api.jobs() if key in job["metadata"]["name"]] == [])
    at.check("a job that is done: nothing is left in the store", not (STATE / "artefacts" / key).exists())

secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
with s3.a_bucket() as (bucket, environment):
    os.environ |= environment
    for name, data in ("bucket", environment), ("wrong", {**environment, "AWS_SECRET_ACCESS_KEY": "wrong"}):
        api.call("POST", secrets, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
    in_it = lambda prefix: list(bucket.objects.filter(Prefix=prefix))
    in_bucket = {"artefacts": f'"s3://{bucket.name}/jobs"', "__claim": None}
    with place(**in_bucket, __env_from_secret='"wrong"') as at:
        refused(at, "a pod with a wrong key to the bucket", "exit code 74 of pod", "its log ends with `error: `s3://lora/jobs/",
                "refuses the credentials: SignatureDoesNotMatch")
        key = at.jobs()[0]["key"]
        at.check("a bucket: a failed job has its bundle there", in_it(f"jobs/{key}/bundle/"))
        at.run("jobs", "remove", key)
        at.check("a bucket: nothing is left of a job that was removed", not in_it(""))
        at.check("a removed job is not known any more", at.jobs() == [] and api.jobs() == [])
    with place(**in_bucket, __env_from_secret='"bucket"') as at:
        local, _ = at.finetune(LONG, remote=False)
        running = at.start(LONG)
        at.wait_for_step(at.key(), 12)
        subprocess.run(f"{HOOKS} kill", shell=True, check=True)
        out, _ = running.communicate(timeout=240)
        at.check("a bucket, a lost machine: the run ends well", running.returncode == 0, at.log())
        if running.returncode == 0:
            report = json.loads(out)
            at.check("a bucket: it went on from a checkpoint", (report["resumed_at"] or 0) >= 5)
            at.same_bytes("a bucket", local, report)
        at.check("a bucket: nothing is left in it", not in_it(""))
        at.idle()

if failures:
    sys.exit(f"{len(failures)} did not hold")
