#!/usr/bin/env python3
"""SageMaker's training jobs and CloudWatch's logs of them, as far as a client sees: requests are held to AWS's own model, signatures
are verified, data comes from and goes to S3, and the job's container is really run.

    contract.py PORT S3_ENDPOINT FOLDER IMAGE     AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: of S3, and of the one who may ask

`POST /_test/NAME` steers it, and is not signed; see `Controls`.
"""
import datetime
import http.server
import json
import os
import pathlib
import shutil
import sys
import tarfile
import threading
import time

import boto3

from bucket import Bucket
from container import Container
from model import Refused, Service, verify

ACCOUNT = "arn:aws:sagemaker:eu-central-1:123456789012:training-job"
# Seconds from SIGTERM to SIGKILL; SageMaker's are 120.
GRACE = 60
SYNC = 0.3
ENDED = ("Completed", "Failed", "Stopped")


class Job:
    def __init__(self, request):
        self.request, self.name = request, request["TrainingJobName"]
        self.lock = threading.Lock()
        self.stopping = False
        self.container = None
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

    def description(self):
        with self.lock:
            told = {key: value for key, value in self.request.items() if key != "Tags"}
            told |= {"TrainingJobArn": f"{ACCOUNT}/{self.name}", "TrainingJobStatus": self.status,
                     "SecondaryStatus": self.secondary, "SecondaryStatusTransitions": list(self.history),
                     "CreationTime": self.created, "LastModifiedTime": self.history[-1]["StartTime"]}
            optional = {"FailureReason": self.reason, "ModelArtifacts": self.model, "TrainingStartTime": self.started}
            return told | {key: value for key, value in optional.items() if value}


class Machine:
    """What SageMaker does with a job, on one machine."""

    def __init__(self, job, bucket, folder, image, controls):
        self.job, self.bucket, self.image, self.controls = job, bucket, image, controls
        self.folder = folder / job.name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.ml = self.folder / "ml"
        self.log = self.folder / "log"

    def run(self):
        try:
            self.train()
        except Exception as error:  # whatever it is, a client has to be told of it
            self.job.fail(f"InternalServerError: {error!r}")

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
            time.sleep(SYNC)
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
        checkpoints, seen = request["CheckpointConfig"]["S3Uri"], {}
        self.bucket.download(checkpoints, self.ml / "checkpoints")
        seen.update({path: path.stat().st_mtime_ns for path in (self.ml / "checkpoints").rglob("*") if path.is_file()})
        if job.stopping:
            return job.enter("Stopped", "Stopped")

        job.started = time.time()
        variables = {"TRAINING_JOB_NAME": job.name, **request.get("Environment", {})}
        with self.log.open("wb") as log:
            job.container = Container(job.name, self.image, self.ml, variables, log)
        job.enter("InProgress", "Training", "Training image download completed. Training in progress.")
        why = self.wait(checkpoints, seen)
        code = job.container.exit_code()
        job.enter("Stopping" if why else "InProgress", "Uploading", "Uploading generated training model")
        self.bucket.upload_changes(self.ml / "checkpoints", checkpoints, seen)
        if broken := self.controls.take("damage_next"):
            bucket, key = (checkpoints.rstrip("/") + "/" + broken).removeprefix("s3://").split("/", 1)
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

    def wait(self, checkpoints, seen):
        job, asked, why = self.job, None, None
        most = job.request["StoppingCondition"]["MaxRuntimeInSeconds"]
        while job.container.exit_code() is None:
            if not why and (job.stopping or time.time() - job.started > most):
                why, asked = ("stop" if job.stopping else "time"), time.time()
                job.container.signal("TERM")
            if asked and time.time() - asked > GRACE:
                job.container.signal("KILL")
            self.bucket.upload_changes(self.ml / "checkpoints", checkpoints, seen)
            time.sleep(SYNC)
        return why

    def keep_model(self):
        files = sorted((self.ml / "model").iterdir())
        if files:
            with tarfile.open(self.folder / "model.tar.gz", "w:gz") as tar:
                for file in files:
                    tar.add(file, file.name)
            uri = f"{self.job.request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{self.job.name}/output/model.tar.gz"
            self.bucket.upload_file(self.folder / "model.tar.gz", uri)
            self.job.model = {"S3ModelArtifacts": uri}


class Controls:
    """What a test can bring about: each is set by a `POST /_test/NAME` whose body is its value as JSON."""

    def __init__(self):
        self.throttle = 0        # so many calls are answered with ThrottlingException
        self.clock_s = 0         # seconds that the service's clock is ahead
        self.expired = False     # every call is answered with ExpiredTokenException
        self.quota = False       # no instance may be had
        self.hold = False        # jobs wait for a machine
        self.fail_next = None    # the FailureReason of the next job
        self.damage_next = None  # a file of the next job's output that is damaged in S3
        self.lose_create = False  # the next CreateTrainingJob comes through, and its answer is lost

    def take(self, name):
        value = getattr(self, name)
        setattr(self, name, None if value is not True else False)
        return value


class Contract:
    def __init__(self, s3, folder, image, keys):
        self.bucket, self.folder, self.image, self.keys = Bucket(s3), folder, image, keys
        self.services = {"SageMaker": Service("sagemaker"), "Logs_20140328": Service("logs")}
        self.controls = Controls()
        self.jobs, self.machines, self.lock = {}, {}, threading.Lock()

    def call(self, headers, path, body):
        target, _, operation = headers.get("X-Amz-Target", "").partition(".")
        if headers.get("Content-Type") != "application/x-amz-json-1.1" or target not in self.services:
            raise Refused("UnknownOperationException", f"{target}.{operation}", 404)
        service = self.services[target]
        now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=self.controls.clock_s)
        verify(headers, body, path, service.name, self.keys, now)
        if self.controls.expired:
            raise Refused("ExpiredTokenException", "The security token included in the request is expired", 403)
        if self.controls.throttle > 0:
            self.controls.throttle -= 1
            raise Refused("ThrottlingException", "Rate exceeded")
        request = json.loads(body)
        service.check(operation, request)
        return getattr(self, operation)(request)

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
        threading.Thread(target=self.machines[name].run, daemon=True).start()
        return {"TrainingJobArn": f"{ACCOUNT}/{name}"}

    def job(self, request):
        if request["TrainingJobName"] not in self.jobs:
            raise Refused("ValidationException", "Requested resource not found.")
        return self.jobs[request["TrainingJobName"]]

    def DescribeTrainingJob(self, request):
        return self.job(request).description()

    def StopTrainingJob(self, request):
        job = self.job(request)
        if job.status in ENDED:
            raise Refused("ValidationException",
                          f"The request was rejected because the training job is in status {job.status}.")
        job.stopping, job.status = True, "Stopping"
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

    def test(self, name, value):
        """What a test asks for, or brings about."""
        active = [job for job in self.jobs.values() if job.status not in ENDED]
        if name == "active":
            return [job.name for job in active]
        if name == "kill":
            for job in active:
                if job.container:
                    job.container.signal("KILL")
            return [job.name for job in active]
        if name == "stop":
            for job in active:
                job.stopping, job.status = True, "Stopping"
            return [job.name for job in active]
        if name == "jobs":
            return {job.name: {"status": job.status, "reason": job.reason, "model": job.model} for job in self.jobs.values()}
        if not hasattr(self.controls, name):
            raise Refused("UnknownOperationException", name, 404)
        setattr(self.controls, name, value)
        return None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        contract = self.server.contract
        try:
            if self.path.startswith("/_test/"):
                answer, status = contract.test(self.path.removeprefix("/_test/"), json.loads(body or "null")), 200
            else:
                answer, status = contract.call(self.headers, self.path, body), 200
                if self.headers["X-Amz-Target"].endswith("CreateTrainingJob") and contract.controls.take("lose_create"):
                    self.close_connection = True
                    return self.connection.shutdown(2)
        except Refused as refused:
            answer, status = {"__type": refused.code, "message": refused.message}, refused.status
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_words):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # who asks may lose patience
            super().handle_error(request, client_address)


def main():
    port, s3_endpoint, folder, image = sys.argv[1:]
    keys = {os.environ["AWS_ACCESS_KEY_ID"]: os.environ["AWS_SECRET_ACCESS_KEY"]}
    s3 = boto3.client("s3", region_name="eu-central-1", endpoint_url=s3_endpoint)
    server = Server(("127.0.0.1", int(port)), Handler)
    server.contract = Contract(s3, pathlib.Path(folder), image, keys)
    server.serve_forever()


if __name__ == "__main__":
    main()
