#!/usr/bin/env python3
"""Lets Microsoft's own client make the request of a job, and writes its body to `put_job.json`: what ours is compared with.

    record.py [--check]

With `--check`, nothing is written, and a difference from the file ends with exit code 1.
"""
import datetime
import json
import pathlib
import sys

from azure.ai.ml._restclient import arm_ml_service
from azure.ai.ml._restclient.arm_ml_service import models
from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import HttpTransport

FILE = pathlib.Path(__file__).with_name("put_job.json")
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
WORKSPACE = (f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.MachineLearningServices"
             "/workspaces/ws")
KEY = "acme-0123456789abcdef0123"
COMMAND = ("program=./tunesmith-${LOCAL_RANK:-0}; cp ${{inputs.bundle}}/tunesmith $program && chmod 755 $program && "
           "exec $program train --job ${{inputs.bundle}}/job.json --out ${{outputs.out}} --attempt 2")


class Credential:
    def get_token(self, *_scopes, **_options):
        return AccessToken("token", 9999999999)


class Recorded(Exception):
    """Carries the request that was about to be sent."""


class Recorder(HttpTransport):
    def send(self, request, **_options):
        raise Recorded(request)

    def open(self):
        pass

    def close(self):
        pass

    def __exit__(self, *_error):
        pass


def job():
    folder = f"azureml://datastores/workspaceblobstore/paths/tunesmith/{KEY}"
    return models.JobBase(properties=models.CommandJob(
        command=COMMAND,
        environment_id=f"{WORKSPACE}/environments/lora-cuda/versions/1",
        compute_id=f"{WORKSPACE}/computes/gpu-cluster",
        display_name=f"{KEY}-2",
        experiment_name="tunesmith",
        limits=models.CommandJobLimits(timeout=datetime.timedelta(seconds=3720)),
        resources=models.JobResourceConfiguration(
            instance_count=2, instance_type="Standard_NC24ads_A100_v4", shm_size="8g"),
        distribution=models.PyTorch(process_count_per_instance=2),
        inputs={"bundle": models.UriFolderJobInput(uri=f"{folder}/bundle/", mode="Download")},
        outputs={"out": models.UriFolderJobOutput(uri=f"{folder}/out/", mode="ReadWriteMount")},
        tags={"tenant": "acme", "job": KEY, "digest": "0123456789abcdef" * 4},
        queue_settings=models.QueueSettings(job_tier="Spot"),
    ))


def recorded():
    name = next(name for name in dir(arm_ml_service) if name.endswith("Client"))
    client = getattr(arm_ml_service, name)(credential=Credential(), subscription_id=SUBSCRIPTION, transport=Recorder())
    try:
        client.jobs.create_or_update("rg", "ws", f"{KEY}-2", job())
    except Recorded as stopped:
        request = stopped.args[0]
        expected = f"https://management.azure.com{WORKSPACE}/jobs/{KEY}-2?api-version=2025-12-01"
        assert (request.method, request.url) == ("PUT", expected), (request.method, request.url)
        return json.loads(request.content if isinstance(request.content, (str, bytes)) else request.data)
    raise SystemExit("the client sent nothing")


def main():
    body = recorded()
    if "--check" in sys.argv[1:]:
        if body != json.loads(FILE.read_text()):
            sys.exit(f"{FILE.name} is not what the client sends:\n{json.dumps(body, indent=1)}")
        print("ok    put_job.json is what Microsoft's client sends")
        return
    FILE.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
