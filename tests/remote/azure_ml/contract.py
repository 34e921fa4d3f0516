#!/usr/bin/env python3
"""Azure ML as far as a client sees: Entra's tokens, a machine's identity, the management API of one workspace held to the models of
Microsoft's own client, the history's word on a failure; blobs are in a real Azurite, and a job's command is really run.

    contract.py PORT BLOBS FOLDER
"""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.parse

from azure.storage.blob import BlobServiceClient

from model import SUBSTITUTION, errors_of

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import stand_in  # noqa: E402

# Azurite's, which is no secret.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINERS = {"workspaceblobstore": "blobs", "workspaceartifactstore": "azureml"}
TENANT, CLIENT, SECRET = "tenant-id", "app-id", "app-secret"
AUDIENCE = "https://management.azure.com"
WORKSPACE = ("/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers"
             "/Microsoft.MachineLearningServices/workspaces/ws")
COMPUTES = {"cpu-cluster": 4, "gpu-cluster": 4}
ENDED = ("Completed", "Failed", "Canceled")


class Refused(stand_in.Refused):
    def __init__(self, status, code, message):
        super().__init__(status, {"error": {"code": code, "message": message}})


class TokenRefused(stand_in.Refused):
    def __init__(self, status, error, description):
        super().__init__(status, {"error": error, "error_description": description})


class Blobs:
    def __init__(self, address):
        self.client = BlobServiceClient(address, credential=KEY)
        for container in CONTAINERS.values():
            self.client.create_container(container)

    def place(self, uri):
        datastore, path = re.fullmatch(r"azureml://datastores/(\w+)/paths/(.+)", uri).groups()
        return self.client.get_container_client(CONTAINERS[datastore]), path.rstrip("/") + "/"

    def download(self, uri, folder):
        container, prefix = self.place(uri)
        count = 0
        for blob in container.list_blobs(name_starts_with=prefix):
            path = folder / blob.name[len(prefix):]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(container.download_blob(blob.name).readall())
            count += 1
        return count


class Mount:
    """A folder that is a datastore's: what is closed or removed in it is so there, a moment later."""

    def __init__(self, blobs, uri, folder):
        self.container, self.prefix = blobs.place(uri)
        self.folder = folder
        blobs.download(uri, folder)
        self.seen = self.files()

    def files(self):
        found = {}
        for path in self.folder.rglob("*"):
            try:
                if path.is_file():
                    found[path] = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
        return found

    def sync(self):
        now = self.files()
        for path in sorted(now):
            if self.seen.get(path) != now[path]:
                try:
                    content = path.read_bytes()
                except FileNotFoundError:
                    continue  # renamed while it was looked at
                self.container.upload_blob(self.prefix + str(path.relative_to(self.folder)), content, overwrite=True)
                self.seen[path] = now[path]
        for path in set(self.seen) - set(now):
            self.container.delete_blob(self.prefix + str(path.relative_to(self.folder)))
            del self.seen[path]


class Command:
    """A job's command, with all that it starts."""

    def __init__(self, words, folder, log):
        self.process = subprocess.Popen(["bash", "-c", words], cwd=folder, env={"PATH": os.environ["PATH"]}, stdout=log,
                                        stderr=subprocess.STDOUT, start_new_session=True)

    def signal(self, name):
        os.killpg(self.process.pid, signal.Signals[f"SIG{name}"])

    def exit_code(self):
        """`None` while it runs."""
        return self.process.poll()


class Job:
    def __init__(self, name, body, address):
        self.name, self.body, self.address = name, body, address
        self.status, self.error, self.process, self.stopping = "NotStarted", None, None, False
        self.created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def fail(self, reason):
        code, message = reason.split(": ", 1)
        self.error, self.status = {"code": code, "message": message}, "Failed"

    def stop(self):
        self.stopping = True

    def ended(self):
        return self.status in ENDED

    def told(self):
        return {"status": self.status, "error": self.error}

    def answer(self):
        tracking = {"jobServiceType": "Tracking", "endpoint": f"{self.address}/mlflow/v1.0{WORKSPACE}"}
        return {"id": f"{WORKSPACE}/jobs/{self.name}", "name": self.name,
                "type": "Microsoft.MachineLearningServices/workspaces/jobs", "systemData": {"createdAt": self.created},
                "properties": {**self.body["properties"], "status": self.status, "services": {"Tracking": tracking}}}


class Machine(stand_in.Machine):
    """What Azure ML does with a job, on one machine."""

    def __init__(self, job, blobs, folder, controls):
        super().__init__(job, folder, controls)
        self.blobs, self.mounts, self.log = blobs, [], self.folder / "std_log.txt"

    def train(self):
        job, properties, places = self.job, self.job.body["properties"], {}
        job.status = "Preparing"
        if reason := self.controls.take("fail_next"):
            return job.fail(reason)
        while self.controls.hold and not job.stopping:
            job.status = "Queued"
            time.sleep(stand_in.SYNC)
        if job.stopping:
            job.status = "Canceled"
            return
        for name, value in properties["inputs"].items():
            place = places[f"inputs.{name}"] = self.folder / "in" / name
            place.mkdir(parents=True)
            if not self.blobs.download(value["uri"], place):
                return job.fail(f"UserError: DataAccessError(NotFound): {value['uri']} has no files")
        for name, value in properties["outputs"].items():
            place = places[f"outputs.{name}"] = self.folder / "out" / name
            place.mkdir(parents=True)
            self.mounts.append(Mount(self.blobs, value["uri"], place))
        command = SUBSTITUTION.sub(lambda match: str(places[".".join(match.groups())]), properties["command"])
        (self.folder / "work").mkdir()
        with self.log.open("wb") as log:
            job.process = Command(command, self.folder / "work", log)
        job.status = "Running"
        hours, minutes, seconds = re.fullmatch(r"PT(\d+)H(\d+)M(\d+)S", properties["limits"]["timeout"]).groups()
        why = self.wait(int(hours) * 3600 + int(minutes) * 60 + int(seconds))
        code = job.process.exit_code()
        job.status = "Finalizing"
        self.sync()
        if broken := self.controls.take("damage_next"):
            mount = self.mounts[0]
            mount.container.upload_blob(mount.prefix + broken, b"not what the job wrote", overwrite=True)
        if why:
            job.status = "Canceled"
        elif code == 0:
            job.status = "Completed"
        else:
            job.fail(f"UserError: Execution failed. User process '/bin/bash' exited with status code {code}. "
                     f"Process exited with non-zero exit code: {code}")

    def sync(self):
        for mount in self.mounts:
            mount.sync()
        container = self.blobs.client.get_container_client("azureml")
        name = f"ExperimentRun/dcid.{self.job.name}/user_logs/std_log.txt"
        container.upload_blob(name, self.log.read_bytes(), overwrite=True)


class Contract(stand_in.Contract):
    def __init__(self, port, blobs, folder):
        # Whether every token that was given so far has expired; whether no token is given any more, and none is good.
        super().__init__(stand_in.Controls(expire=False, lock_out=False))
        self.address, self.blobs, self.folder = f"http://127.0.0.1:{port}", blobs, folder
        self.tokens = {}

    def answer(self, method, path, headers, body):
        url = urllib.parse.urlparse(path)
        path, query = url.path, dict(urllib.parse.parse_qsl(url.query))
        if path == f"/{TENANT}/oauth2/v2.0/token":
            return 200, self.token(dict(urllib.parse.parse_qsl(body.decode())))
        if path == "/metadata/identity/oauth2/token":
            if headers.get("Metadata") != "true" or query.get("resource") != AUDIENCE + "/":
                raise TokenRefused(400, "invalid_request", "Required metadata header not specified")
            return 200, {**self.new_token(), "expires_in": "3599"}
        token = (headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.controls.take("expire"):
            self.tokens = dict.fromkeys(self.tokens, 0)
        if self.tokens.get(token, 0) < time.time() or self.controls.lock_out:
            code = "ExpiredAuthenticationToken" if token in self.tokens else "InvalidAuthenticationToken"
            raise Refused(401, code, "The access token expiry UTC time is earlier than current UTC time.")
        if self.controls.throttled():
            raise Refused(429, "TooManyRequests", "The request is being throttled.")
        history = re.fullmatch(re.escape(f"/history/v1.0{WORKSPACE}") + r"/runs/([\w-]+)/details", path)
        if history and method == "GET":
            job = self.job(history[1])
            return 200, {"runId": job.name, "status": job.status, "error": {"error": job.error} if job.error else None}
        if query.get("api-version") != "2025-12-01":
            raise Refused(400, "MissingApiVersionParameter", "The api-version query parameter is required for all requests.")
        if not path.startswith(WORKSPACE + "/"):
            raise Refused(404, "ResourceNotFound", f"The Resource '{path}' under resource group 'rg' was not found: /workspaces/.")
        return self.resource(method, path.removeprefix(WORKSPACE + "/").split("/"), body)

    def token(self, form):
        if self.controls.lock_out or (form.get("client_id"), form.get("client_secret")) != (CLIENT, SECRET):
            raise TokenRefused(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
        if form.get("grant_type") != "client_credentials" or form.get("scope") != AUDIENCE + "/.default":
            raise TokenRefused(400, "invalid_scope", f"AADSTS70011: The scope '{form.get('scope')}' is not valid.")
        return {**self.new_token(), "expires_in": 3599}

    def new_token(self):
        token = os.urandom(8).hex()
        self.tokens[token] = time.time() + 3599
        return {"token_type": "Bearer", "access_token": token}

    def resource(self, method, parts, body):
        match (method, parts):
            case ("GET", ["computes", name]):
                if name not in COMPUTES:
                    raise Refused(404, "UserError", f"Compute {name} not found in the workspace.")
                scale = {"vmSize": "STANDARD_DS3_V2", "scaleSettings": {"maxNodeCount": COMPUTES[name]}}
                return 200, {"name": name, "properties": {"computeType": "AmlCompute", "properties": scale}}
            case ("GET", ["datastores", name]) if name in CONTAINERS:
                return 200, {"name": name, "properties": {
                    "datastoreType": "AzureBlob", "accountName": ACCOUNT, "containerName": CONTAINERS[name],
                    "endpoint": "core.windows.net", "protocol": "https", "credentials": {"credentialsType": "AccountKey"}}}
            case ("POST", ["datastores", name, "listSecrets"]) if name in CONTAINERS:
                return 200, {"secretsType": "AccountKey", "key": KEY}
            case ("PUT", ["jobs", name]):
                return self.put(name, body)
            case ("GET", ["jobs", name]):
                return 200, self.job(name).answer()
            case ("POST", ["jobs", name, "cancel"]):
                job = self.job(name)
                if job.ended():
                    raise Refused(400, "UserError", f"Job {name} is in terminal state {job.status}.")
                job.stop()
                return 202, None
        raise Refused(404, "ResourceNotFound", f"No such resource: {'/'.join(parts)}")

    def job(self, name):
        if name not in self.jobs:
            raise Refused(404, "UserError", f"Not found job {name}")
        return self.jobs[name]

    def put(self, name, body):
        body = json.loads(body)
        if errors := errors_of(body):
            raise Refused(400, "ValidationError", "; ".join(errors))
        compute = body["properties"].get("computeId", "").rsplit("/", 1)[-1]
        if compute not in COMPUTES:
            raise Refused(400, "UserError", f"Compute {compute} not found in the workspace.")
        if self.controls.quota:
            raise Refused(400, "UserError", "Requested 1 nodes but AzureMachineLearning Compute has insufficient quota: "
                          "Standard DSv3 Family Cluster Dedicated vCPUs 0 of 0 are left.")
        with self.lock:
            if name in self.jobs:
                # As the service does: what may be changed of a job is changed, and it does not start anew.
                self.jobs[name].body["properties"]["tags"] = body["properties"]["tags"]
                return 200, self.jobs[name].answer()
            job = self.jobs[name] = Job(name, body, self.address)
        self.begin(Machine(job, self.blobs, self.folder, self.controls))
        return 201, job.answer()


def main():
    port, blobs, folder = sys.argv[1:]
    stand_in.serve(port, Contract(port, Blobs(blobs), pathlib.Path(folder)))


if __name__ == "__main__":
    main()
