#!/usr/bin/env python3
"""SageMaker's training jobs and CloudWatch's logs of them, as far as a client sees: requests are held to AWS's own model, signatures
are verified, data comes from and goes to S3, and the job's container is really run.

    contract.py PORT S3_ENDPOINT FOLDER IMAGE     AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: of S3, and of the one who may ask
"""
import datetime
import json
import os
import pathlib
import sys
import tarfile
import threading
import time

import boto3

from bucket import Bucket
from container import Container
from model import Refused, Service, verify
import stand_in  # model.py knows where it is

ACCOUNT = "arn:aws:sagemaker:eu-central-1:123456789012:training-job"
ENDED = ("Completed", "Failed", "Stopped")


class Job:
    def __init__(self, request):
        self.request, self.name = request, request["TrainingJobName"]
        self.lock = threading.Lock()
        self.stopping = False
        self.process = None
        self.reason = None
        self.model = None
        self.started = None
        self.created = time.time()
        self.history = []
        self.status, self.secondary = "InProgress", ""
        self.enter("InProgress", "Starting", "Preparing the instances for training")

    def enter(self, status, secondary, message=""):
        with self.lock:
            now = time.time()
            if self.history:
                self.history[-1]["EndTime"] = now
            if not (status == "InProgress" and self.stopping):
                self.status = status
            self.secondary = secondary
            self.history.append({"Status": secondary, "StartTime": now, "StatusMessage": message})

    def fail(self, reason):
        self.reason = reason[:1024]
        self.enter("Failed", "Failed", self.reason)

    def stop(self):
        self.stopping, self.status = True, "Stopping"

    def ended(self):
        return self.status in ENDED

    def told(self):
        return {"status": self.status, "reason": self.reason, "model": self.model}

    def description(self):
        with self.lock:
            told = {key: value for key, value in self.request.items() if key != "Tags"}
            told |= {"TrainingJobArn": f"{ACCOUNT}/{self.name}", "TrainingJobStatus": self.status,
                     "SecondaryStatus": self.secondary, "SecondaryStatusTransitions": list(self.history),
                     "CreationTime": self.created, "LastModifiedTime": self.history[-1]["StartTime"]}
            optional = {"FailureReason": self.reason, "ModelArtifacts": self.model, "TrainingStartTime": self.started}
            return told | {key: value for key, value in optional.items() if value}


class Machine(stand_in.Machine):
    """What SageMaker does with a job, on one machine."""

    def __init__(self, job, bucket, folder, image, controls):
        super().__init__(job, folder, controls)
        self.bucket, self.image = bucket, image
        self.ml = self.folder / "ml"
        self.log = self.folder / "log"
        self.checkpoints, self.seen = job.request["CheckpointConfig"]["S3Uri"], {}

    def train(self):
        job, request = self.job, self.job.request
        for name in ("input/config", "input/data", "model", "output/data", "checkpoints"):
            (self.ml / name).mkdir(parents=True)
        if reason := self.controls.take("fail_next"):
            return job.fail(reason)
        while self.controls.hold:
            if job.stopping:
                return job.enter("Stopped", "Stopped")
            job.enter("InProgress", "Pending", "Waiting for capacity")
            time.sleep(stand_in.SYNC)
        job.enter("InProgress", "Downloading", "Downloading input data")
        channels = {}
        for channel in request["InputDataConfig"]:
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            if not self.bucket.download(uri, self.ml / "input/data" / channel["ChannelName"]):
                return job.fail(f"ClientError: Data download failed: S3 key: {uri} matched no files on s3")
            channels[channel["ChannelName"]] = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
        resources = request["ResourceConfig"]
        config = {
            "hyperparameters": request["HyperParameters"], "inputdataconfig": channels,
            "resourceconfig": {
                "current_host": "algo-1", "current_instance_type": resources["InstanceType"],
                "hosts": [f"algo-{n}" for n in range(1, resources["InstanceCount"] + 1)],
                "network_interface_name": "eth0"},
        }
        for name, content in config.items():
            (self.ml / "input/config" / f"{name}.json").write_text(json.dumps(content))
        self.bucket.download(self.checkpoints, self.ml / "checkpoints")
        self.seen.update({path: path.stat().st_mtime_ns for path in (self.ml / "checkpoints").rglob("*") if path.is_file()})
        if job.stopping:
            return job.enter("Stopped", "Stopped")

        job.started = time.time()
        variables = {"TRAINING_JOB_NAME": job.name, **request.get("Environment", {})}
        with self.log.open("wb") as log:
            job.process = Container(job.name, self.image, self.ml, variables, log)
        job.enter("InProgress", "Training", "Training image download completed. Training in progress.")
        why = self.wait(request["StoppingCondition"]["MaxRuntimeInSeconds"])
        code = job.process.exit_code()
        job.enter("Stopping" if why else "InProgress", "Uploading", "Uploading generated training model")
        self.sync()
        if broken := self.controls.take("damage_next"):
            bucket, key = (self.checkpoints.rstrip("/") + "/" + broken).removeprefix("s3://").split("/", 1)
            self.bucket.s3.put_object(Bucket=bucket, Key=key, Body=b"not what the job wrote")
        self.keep_model()
        if why == "time":
            return job.enter("Stopped", "MaxRuntimeExceeded", "Training job runtime exceeded MaxRuntimeInSeconds")
        if why == "stop":
            return job.enter("Stopped", "Stopped", "Training job stopped")
        if code == 0:
            return job.enter("Completed", "Completed", "Training job completed")
        failure = self.ml / "output/failure"
        words = failure.read_text() if failure.is_file() else ""
        job.fail(f"AlgorithmError: {words[:900]}, exit code: {code}")

    def sync(self):
        self.bucket.upload_changes(self.ml / "checkpoints", self.checkpoints, self.seen)

    def keep_model(self):
        files = sorted((self.ml / "model").iterdir())
        if files:
            with tarfile.open(self.folder / "model.tar.gz", "w:gz") as tar:
                for file in files:
                    tar.add(file, file.name)
            uri = f"{self.job.request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{self.job.name}/output/model.tar.gz"
            self.bucket.upload_file(self.folder / "model.tar.gz", uri)
            self.job.model = {"S3ModelArtifacts": uri}


class Contract(stand_in.Contract):
    content_type = "application/x-amz-json-1.1"

    def __init__(self, s3, folder, image, keys):
        # Seconds that the service's clock is ahead; whether every call is answered with ExpiredTokenException.
        super().__init__(stand_in.Controls(clock_s=0, expired=False))
        self.bucket, self.folder, self.image, self.keys = Bucket(s3), folder, image, keys
        self.services = {"SageMaker": Service("sagemaker"), "Logs_20140328": Service("logs")}
        self.machines = {}

    def answer(self, _method, path, headers, body):
        target, _, operation = headers.get("X-Amz-Target", "").partition(".")
        if headers.get("Content-Type") != self.content_type or target not in self.services:
            raise Refused("UnknownOperationException", f"{target}.{operation}", 404)
        service = self.services[target]
        now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=self.controls.clock_s)
        verify(headers, body, path, service.name, self.keys, now)
        if self.controls.expired:
            raise Refused("ExpiredTokenException", "The security token included in the request is expired", 403)
        if self.controls.throttled():
            raise Refused("ThrottlingException", "Rate exceeded")
        request = json.loads(body)
        service.check(operation, request)
        return 200, getattr(self, operation)(request)

    def CreateTrainingJob(self, request):
        condition, runtime = request["StoppingCondition"], request["StoppingCondition"]["MaxRuntimeInSeconds"]
        if request.get("EnableManagedSpotTraining"):
            if condition.get("MaxWaitTimeInSeconds", 0) < runtime:
                raise Refused("ValidationException", "Invalid MaxWaitTimeInSeconds. It must be present and be greater than "
                              "or equal to MaxRuntimeInSeconds")
        elif "MaxWaitTimeInSeconds" in condition:
            raise Refused("ValidationException",
                          "MaxWaitTimeInSeconds above 0 is not supported when EnableManagedSpotTraining is false")
        if self.controls.quota:
            kind = request["ResourceConfig"]["InstanceType"]
            raise Refused("ResourceLimitExceeded", f"The account-level service limit '{kind} for training job usage' is 0 "
                          "Instances, with current utilization of 0 Instances and a request delta of 1 Instances.")
        with self.lock:
            name = request["TrainingJobName"]
            if name in self.jobs:
                raise Refused("ResourceInUse", "Training job names must be unique within an AWS account and region, and a "
                              "training job with this name already exists")
            job = self.jobs[name] = Job(request)
        self.machines[name] = Machine(job, self.bucket, self.folder, self.image, self.controls)
        self.begin(self.machines[name])
        return {"TrainingJobArn": f"{ACCOUNT}/{name}"}

    def job(self, request):
        if request["TrainingJobName"] not in self.jobs:
            raise Refused("ValidationException", "Requested resource not found.")
        return self.jobs[request["TrainingJobName"]]

    def DescribeTrainingJob(self, request):
        return self.job(request).description()

    def StopTrainingJob(self, request):
        job = self.job(request)
        if job.ended():
            raise Refused("ValidationException",
                          f"The request was rejected because the training job is in status {job.status}.")
        job.stop()
        return {}

    def ListTrainingJobs(self, request):
        jobs = sorted(self.jobs.values(), key=lambda job: job.created, reverse=True)[:request.get("MaxResults", 10)]
        return {"TrainingJobSummaries": [
            {"TrainingJobName": job.name, "TrainingJobArn": f"{ACCOUNT}/{job.name}", "CreationTime": job.created,
             "TrainingJobStatus": job.status} for job in jobs]}

    def DescribeLogStreams(self, request):
        name = request["logStreamNamePrefix"].split("/")[0]
        is_there = name in self.machines and self.machines[name].log.is_file()
        return {"logStreams": [{"logStreamName": f"{name}/algo-1-1700000000"}] if is_there else []}

    def GetLogEvents(self, request):
        """Ten events a page, so that pages are what a test sees."""
        name = request["logStreamName"].split("/")[0]
        if name not in self.machines or not self.machines[name].log.is_file():
            raise Refused("ResourceNotFoundException", "The specified log stream does not exist.")
        lines = self.machines[name].log.read_text(errors="replace").split("\n")[:-1]
        start = int(request["nextToken"].removeprefix("f/")) if "nextToken" in request else 0
        page = lines[start:start + 10]
        return {"events": [{"timestamp": 0, "message": line, "ingestionTime": 0} for line in page],
                "nextForwardToken": f"f/{start + len(page)}", "nextBackwardToken": "b/0"}


def main():
    port, s3_endpoint, folder, image = sys.argv[1:]
    keys = {os.environ["AWS_ACCESS_KEY_ID"]: os.environ["AWS_SECRET_ACCESS_KEY"]}
    s3 = boto3.client("s3", region_name="eu-central-1", endpoint_url=s3_endpoint)
    stand_in.serve(port, Contract(s3, pathlib.Path(folder), image, keys))


if __name__ == "__main__":
    main()
