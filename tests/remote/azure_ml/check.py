#!/usr/bin/env python3
"""Azure ML as far as it can be had without Azure. See README.md.

    check.py TUNESMITH FOLDER AZURITE      within the namespace that check.sh makes
"""
import json
import os
import pathlib
import subprocess
import sys

from azure.storage.blob import BlobServiceClient

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from contract import CLIENT, KEY, SECRET, TENANT  # noqa: E402
from host import Host, asked, up, wait  # noqa: E402

BLOBS, ARM = "http://127.0.0.1:5060/devstoreaccount1", "http://127.0.0.1:5061"


def fragment(compute="cpu-cluster", workspace="ws", nodes=1, more=""):
    return "\n".join([
        "[remote]", f"nodes = {nodes}", "", "[remote.azure_ml]", 'subscription = "00000000-0000-0000-0000-000000000000"',
        'resource_group = "rg"', f'workspace = "{workspace}"', f'compute = "{compute}"', 'environment = "lora-cuda:1"',
        f'management = "{ARM}"', f'authority = "{ARM}"', f'identity = "{ARM}"', f'blob_endpoint = "{BLOBS}"', more, ""])


def test(name, value=None):
    return asked(ARM, name, value)


def idle():
    wait("an idle engine", lambda: not test("active"))


def training(blobs):
    """Whether the job that is active has told of a step."""
    for name in test("active"):
        beat = blobs.get_blob_client(f"tunesmith/{name.rsplit('-', 1)[0]}/out/heartbeat.json")
        if beat.exists() and json.loads(beat.download_blob().readall())["step"] > 0:
            return True
    return False


def cases(host, blobs):
    made = lambda: len(test("jobs"))
    ok = fragment()
    host.refused("a wrong secret", host.run("secret", ok, environment={"AZURE_CLIENT_SECRET": "wrong"}),
                 "refuses the credentials: AADSTS7000215: Invalid client secret provided.", "AZURE_CLIENT_SECRET")
    host.refused("a workspace that isn't there", host.run("workspace", fragment(workspace="nowhere")), "ResourceNotFound")
    host.refused("a compute that isn't there", host.run("compute", fragment(compute="gpu-9000")),
                 "can't run such a job: UserError: Compute gpu-9000 not found in the workspace.")
    test("quota", True)
    host.refused("no quota", host.run("quota", ok), "can't run such a job: UserError: Requested 1 nodes but", "insufficient quota")
    test("quota", False)
    host.check("nothing of all that made a job", made() == 0, test("jobs"))

    test("throttle", 2)
    test("lose_put", True)
    code, report, told = host.run("throttled", ok)
    host.check("throttled, and the answer to the submission lost: done", code == 0, told)
    host.check("throttled, and the answer lost: one job", made() == 1, test("jobs"))
    code, report, told = host.run("identity", ok, environment={"AZURE_CLIENT_SECRET": ""})
    host.check("a machine's identity, in place of a secret", code == 0, told)

    test("fail_next", "NodeLost: The node was lost while the job ran on it: node failure.")
    code, report, told = host.run("lost", ok)
    host.check("a machine that Azure lost: another attempt does it", code == 0 and report["job"]["attempts"] == 2, told)
    test("fail_next", "AllocationFailed: Not enough capacity for STANDARD_DS3_V2 in this region.")
    before = made()
    host.refused("no capacity", host.run("capacity", ok), "can't be scheduled", "AllocationFailed: Not enough capacity")
    host.check("no capacity: one attempt", made() == before + 1)

    test("damage_next", "adapter/adapter_model.safetensors")
    host.refused("a damaged adapter", host.run("damaged", ok), "is damaged: `adapter/adapter_model.safetensors` has SHA-256")

    test("hold", True)
    running = host.start("missing", ok)
    wait("a job", lambda: test("active"))
    name = test("active")[0].rsplit("-", 1)[0]
    for blob in list(blobs.list_blobs(name_starts_with=f"tunesmith/{name}/bundle/")):
        blobs.delete_blob(blob.name)
    test("hold", False)
    _, told = running.communicate(timeout=180)
    host.refused("an input that isn't there any more", (running.returncode, None, told), "DataAccessError(NotFound)")
    idle()

    running = host.start("stopped", ok)
    wait("a job that runs", lambda: training(blobs))
    test("stop")
    _, told = running.communicate(timeout=180)
    host.refused("stopped by somebody else", (running.returncode, None, told), "was cancelled")
    idle()

    running = host.start("expired", ok, epochs=15)
    wait("a job that runs", lambda: training(blobs))
    test("expire", True)
    out, told = running.communicate(timeout=240)
    host.check("a token that expires in the middle: another is asked for, and nobody notices", running.returncode == 0, told)

    running = host.start("locked-out", ok, epochs=15)
    wait("a job that runs", lambda: training(blobs))
    test("lock_out", True)
    _, told = running.communicate(timeout=180)
    host.refused("a secret that is withdrawn in the middle", (running.returncode, None, told), "refuses the credentials: AADSTS7000215")
    test("lock_out", False)
    before = made()
    code, report, told = host.run("locked-out", ok, epochs=15)
    host.check("with a new secret the job is taken up again", code == 0 and report["job"]["attempts"] == 1, told)
    host.check("with a new secret: no second job", made() == before)
    idle()


def main():
    binary, work, azurite = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    environment = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_CLIENT_SECRET": SECRET}
    os.environ.update(environment)
    store = subprocess.Popen([azurite, "--silent", "--skipApiVersionCheck", "--disableTelemetry", "--blobHost", "127.0.0.1",
                              "--blobPort", "5060", "--location", str(work / "blobs")], stdout=subprocess.DEVNULL)
    processes = [store]
    try:
        up("http://127.0.0.1:5060/")
        processes.append(subprocess.Popen([sys.executable, str(HERE / "contract.py"), "5061", BLOBS, str(work / "jobs")]))
        up(ARM)
        host = Host(binary, work, "azure_ml", environment)
        cases(host, BlobServiceClient(BLOBS, credential=KEY).get_container_client("blobs"))
        (work / "remote.toml").write_text(fragment())
        hook = f"{sys.executable} {HERE.parent / 'host.py'} {ARM}"
        subprocess.run([sys.executable, str(HERE.parent / "scenario.py"), binary, "--remote", str(work / "remote.toml"),
                        "--provider", "azure_ml", "--kill", f"{hook} kill", "--active", f"{hook} active"], check=True,
                       env={**os.environ, "RUST_LOG": "tunesmith=info"})  # it reads the log
        host.end()
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
