#!/usr/bin/env python3
"""Azure ML as far as it can be had without Azure. See README.md.

    check.py TUNESMITH FOLDER AZURITE      within the namespace that check.sh makes
"""
import os
import pathlib
import sys

from azure.storage.blob import BlobServiceClient

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from cloud_check import CloudCheck, serving  # noqa: E402
from contract import CLIENT, KEY, SECRET, TENANT  # noqa: E402
from scenario import run  # noqa: E402

BLOBS, ARM = "http://127.0.0.1:5060/devstoreaccount1", "http://127.0.0.1:5061"


def fragment(compute="cpu-cluster", workspace="ws"):
    return "\n".join([
        "[remote]", "nodes = 1", "", "[remote.azure_ml]", 'subscription = "00000000-0000-0000-0000-000000000000"',
        'resource_group = "rg"', f'workspace = "{workspace}"', f'compute = "{compute}"', 'environment = "lora-cuda:1"',
        f'management = "{ARM}"', f'authority = "{ARM}"', f'identity = "{ARM}"', f'blob_endpoint = "{BLOBS}"', ""])


def cases(check):
    check.refused("a wrong secret", check.train("secret", environment={"AZURE_CLIENT_SECRET": "wrong"}),
                  "refuses the credentials: AADSTS7000215: Invalid client secret provided.", "AZURE_CLIENT_SECRET")
    check.refused("a workspace that isn't there", check.train("workspace", fragment=fragment(workspace="nowhere")), "ResourceNotFound")
    check.refused("a compute that isn't there", check.train("compute", fragment=fragment(compute="gpu-9000")),
                  "can't run such a job: UserError: Compute gpu-9000 not found in the workspace.")
    check.no_quota("can't run such a job: UserError: Requested 1 nodes but", "insufficient quota")
    check.check("nothing of all that made a job", check.made() == 0, check.ask("jobs"))

    check.lost_answer(throttle=2)
    code, _, told = check.train("identity", environment={"AZURE_CLIENT_SECRET": ""})
    check.check("a machine's identity, in place of a secret", code == 0, told)

    check.failing("a machine that Azure lost", "NodeLost: The node was lost while the job ran on it: node failure.")
    check.no_capacity("AllocationFailed: Not enough capacity for STANDARD_DS3_V2 in this region.", "AllocationFailed: Not enough capacity")
    check.meddled_with("DataAccessError(NotFound)")

    running = check.begin_and_train("expired", epochs=15)
    check.ask("expire", True)
    code, _, told = check.outcome(running)
    check.check("a token that expires in the middle: another is asked for, and nobody notices", code == 0, told)
    check.locked_out("a secret that is withdrawn in the middle", "lock_out", "refuses the credentials: AADSTS7000215", "with a new secret")


def main():
    binary, work, azurite = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
    os.environ.update({"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_CLIENT_SECRET": SECRET})
    blobs = BlobServiceClient(BLOBS, credential=KEY).get_container_client("blobs")

    def read(path):
        blob = blobs.get_blob_client(path)
        return blob.download_blob().readall() if blob.exists() else None

    def remove(prefix):
        for blob in list(blobs.list_blobs(name_starts_with=prefix)):
            blobs.delete_blob(blob.name)

    with serving("http://127.0.0.1:5060/", azurite, "--silent", "--skipApiVersionCheck", "--disableTelemetry", "--blobHost", "127.0.0.1",
                 "--blobPort", "5060", "--location", work / "blobs"):
        with serving(ARM, sys.executable, HERE / "contract.py", "5061", BLOBS, work / "jobs"):
            run(lambda: CloudCheck(binary, "azure_ml", fragment(), ARM, "tunesmith", read, remove), cases, CloudCheck.play)


if __name__ == "__main__":
    main()
