"""A worker at Modal: what `host/src/remote/worker/contract.rs` describes, over Modal's functions and a volume.

    TUNESMITH=target/release/tunesmith modal deploy deploy/modal_app.py

tells an address, which belongs into `[remote.modal] url`; a proxy token of the workspace (`wk-...`, `ws-...`) belongs into the
file of `key_file`, or into MODAL_KEY and MODAL_SECRET. The binary is baked into the image: it trains, and nothing that comes with a job
is run. GPU, cores, memory and time of a job come with it, in the header `X-Job-Resources` and in `job.json`.

Without Modal, for tests, the same over processes of this machine:

    JOBS_DIR=jobs TUNESMITH=target/release/tunesmith MODAL_KEY=wk-... MODAL_SECRET=ws-... uvicorn --factory modal_app:local
"""
import datetime
import fcntl
import hashlib
import hmac
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time

try:
    import modal
except ModuleNotFoundError:  # processes of this machine need none
    modal = None

CONTRACT = 1
URN = "urn:tunesmith:problem:"
ID = re.compile(r"([a-z][a-z0-9-]{0,59})-([1-9][0-9]{0,8})")
DIGEST = re.compile(r"[0-9a-f]{64}")
# What Modal has, by its own names.
GPUS = ["T4", "L4", "A10", "A10G", "L40S", "A100", "A100-40GB", "A100-80GB", "H100", "H200", "B200"]
MOST_GPUS = 8
# A function of Modal's takes no longer than a day.
LONGEST_S = 86400
# What a job may take beyond its time, and then from being asked to end to being killed.
GRACE_S, TO_SAVE_S = 120, 60
LONGEST_LOG = 1 << 20
MOST_BYTES, MOST_ENTRIES = 32 << 30, 10_000
# Of exit codes; everything else is the trainer's own.
KINDS = {65: "bad_input", 66: "base_model", 71: "out_of_memory", 74: "io", 75: "preempted", 76: "rendezvous", 77: "gpu",
         126: "set_up", 127: "set_up", -9: "node_lost", -15: "node_lost", 137: "node_lost", 143: "node_lost"}


class Problem(Exception):
    def __init__(self, status, kind, title, detail, after_s=None):
        super().__init__(detail)
        self.status, self.after_s = status, after_s
        self.body = {"type": URN + kind, "title": title, "status": status, "detail": detail}


def bad_bundle(detail):
    return Problem(422, "bad-bundle", "Not a bundle", detail)


def write_json(path, value):
    """Whole, or as it was."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(value))
    os.replace(new, path)


def read_json(path):
    """None where it is not there, or not whole yet."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


class Attempt:
    """One attempt, and the folder of its job, which all attempts at it share."""

    def __init__(self, jobs, job_id):
        match = ID.fullmatch(job_id)
        if not match:
            raise Problem(400, "malformed", "Malformed request", "`id`: it is not `{tenant}-{digest}-{attempt}`")
        self.id, self.key, self.number = job_id, match[1], int(match[2])
        self.folder = jobs / self.key
        self.bundle, self.out = self.folder / "bundle", self.folder / "out"
        self.log = self.folder / "attempts" / f"{self.number}.log"
        self.begun = self.folder / "attempts" / f"{self.number}.json"
        self.end = self.folder / "attempts" / f"{self.number}.end.json"

    def record(self):
        if not (record := read_json(self.begun)):
            raise Problem(404, "no-such-job", "No such job", f"no job `{self.id}` is here")
        return record

    def has_result(self, digest):
        return (read_json(self.out / "result.json") or {}).get("digest") == digest

    def failure(self, kind, exit_code, message):
        """Its own words, where it left some."""
        own = read_json(self.out / "failure.json")
        return own or {"kind": kind, "exit_code": exit_code, "message": message}

    def last_words(self):
        lines = self.log.read_bytes()[-2000:].decode(errors="replace").split("\n") if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")


def train(attempt, program, saved=lambda: None):
    """Runs where the GPU is: the trainer to its end, or to the end of its time, and a note of how that came."""
    job, record = read_json(attempt.bundle / "job.json"), attempt.record()
    attempt.out.mkdir(exist_ok=True)
    (attempt.out / "failure.json").unlink(missing_ok=True)
    command = [program, "-v", "train", "--job", attempt.bundle / "job.json", "--out", attempt.out,
               "--attempt", str(attempt.number)]
    ranks, world = [], job["world_size"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNESMITH")}
    with open(attempt.log, "ab") as log:
        for rank in range(world):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29400}
            own = {name: str(value) for name, value in own.items()} if world > 1 else {}
            ranks.append(subprocess.Popen(command, cwd=attempt.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          env=environment | own))
    start, asked, late, saved_at = time.monotonic(), None, False, time.monotonic()
    while any(rank.poll() is None for rank in ranks):
        now = time.monotonic()
        late = late or now - start > job["timeout_s"] + GRACE_S
        lost = any(rank.poll() not in (None, 0) for rank in ranks)
        if asked is None and (late or lost or attempt.record()["cancel_asked"]):
            asked = now
            for rank in ranks:
                rank.terminate()
        elif asked is not None and now - asked > TO_SAVE_S:
            for rank in ranks:
                rank.kill()
        if now - saved_at > 5:
            saved()
            saved_at = now
        time.sleep(0.05)
    code = next((rank.returncode for rank in ranks if rank.returncode), 0)
    record = attempt.record()
    end = {"state": "failed", "exit_code": code, "failure": None}
    if code == 0 and attempt.has_result(record["digest"]):
        end["state"] = "succeeded"
    elif record["cancel_asked"]:
        end["state"] = "cancelled"
    elif late:
        end["failure"] = {"kind": "timeout", "exit_code": code, "message": f"it went on for longer than {job['timeout_s']} s"}
    elif code == 0:
        end["failure"] = {"kind": "artefact", "exit_code": 0, "message": "it ended well, and left no `result.json`"}
    else:
        words = attempt.last_words()
        words = f"it was ended by signal {-code} ({words})" if code < 0 else words
        end["failure"] = attempt.failure(KINDS.get(code, "trainer"), code, words)
    write_json(attempt.end, end)
    saved()
    return end


class Processes:
    """Runs jobs as processes of this machine."""

    gpus = []

    def __init__(self, jobs, program):
        self.jobs, self.program = pathlib.Path(jobs).resolve(), os.path.abspath(program)

    def refuses(self, resources):
        kind = resources["gpu"]
        return f"it has no GPU, and `gpu` is `{kind}` (`none` trains on the processor)" if kind else None

    def changed(self):
        """What others wrote is to be seen."""

    def saved(self):
        """What was written is to be seen by others."""

    def spawn(self, attempt, resources, timeout_s):
        thread = threading.Thread(target=train, args=(attempt, self.program))
        thread.start()
        return f"process of {attempt.id}"

    def lost(self, attempt, call):
        """Whether nothing runs any more: the trainer holds a lock as long as it lives."""
        if time.time() - attempt.record()["at"] < 5:
            return None  # it may be about to take it
        try:
            with open(attempt.out / ".lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass
        except BlockingIOError:
            return None
        time.sleep(0.5)  # its end is noted by then, if somebody is there to do that
        return None if attempt.end.exists() else "it ended while its worker was away"

    def cancel(self, attempt, call):
        """The note in its record is enough."""


class Functions:
    """Runs jobs as functions of Modal's, each in a container of its own."""

    gpus = GPUS

    def __init__(self, function, volume, jobs):
        self.function, self.volume, self.jobs, self.program = function, volume, pathlib.Path(jobs), "/opt/tunesmith"

    def refuses(self, resources):
        kind, count = resources["gpu"], resources["gpu_count"]
        if kind and kind not in GPUS:
            return f"Modal has no GPU `{kind}`: it has {', '.join(GPUS)}"
        if kind and count > MOST_GPUS:
            return f"a machine at Modal has at most {MOST_GPUS} GPUs, and `gpu_count` is {count}"
        return None

    def changed(self):
        self.volume.reload()

    def saved(self):
        self.volume.commit()

    @staticmethod
    def options(resources, timeout_s):
        kind = resources["gpu"]
        return {"gpu": f"{kind}:{resources['gpu_count']}" if kind else None, "cpu": float(resources["cpu"]),
                "memory": resources["memory_mib"], "timeout": min(timeout_s + GRACE_S + TO_SAVE_S, LONGEST_S)}

    def spawn(self, attempt, resources, timeout_s):
        function = self.function.with_options(**self.options(resources, timeout_s))
        return function.spawn(attempt.id).object_id

    def lost(self, attempt, call):
        try:
            modal.FunctionCall.from_id(call).get(timeout=0)
        except (TimeoutError, modal.exception.TimeoutError):
            return None
        except modal.exception.FunctionTimeoutError:
            return "Modal ended it after its time"
        except Exception as error:  # of its container, of its image: Modal's own words
            return f"Modal: {error}"
        self.changed()
        return None if attempt.end.exists() else "it ended without a note of how"

    def cancel(self, attempt, call):
        modal.FunctionCall.from_id(call).cancel(terminate_containers=True)


class Worker:
    """The contract, over either."""

    def __init__(self, runner):
        self.runner, self.jobs = runner, runner.jobs
        self.begin = threading.Lock()
        self.jobs.mkdir(parents=True, exist_ok=True)
        (self.jobs / "incoming").mkdir(exist_ok=True)

    def attempt(self, job_id):
        self.runner.changed()
        return Attempt(self.jobs, job_id)

    def info(self, resources):
        if resources:
            self.fits(resources)
        version = subprocess.run([self.runner.program, "--version"], capture_output=True, text=True, check=True).stdout
        return {"contract": CONTRACT, "version": version.split()[-1], "gpus": self.runner.gpus}

    def fits(self, resources):
        if resources["nodes"] > 1:
            why = f"a worker is one machine, and `remote.nodes` is {resources['nodes']}"
        else:
            why = self.runner.refuses(resources)
        if why:
            raise Problem(422, "unschedulable", "No such machine", why)

    def view(self, attempt):
        record, end = attempt.record(), read_json(attempt.end)
        if not end and (why := self.runner.lost(attempt, record["call"])):
            end = {"state": "failed", "exit_code": None, "failure": attempt.failure("node_lost", None, why)}
            if record["cancel_asked"]:
                end = {"state": "cancelled", "exit_code": None, "failure": None}
            elif attempt.has_result(record["digest"]):
                end = {"state": "succeeded", "exit_code": None, "failure": None}
            write_json(attempt.end, end)
            self.runner.saved()
        beat = read_json(attempt.out / "heartbeat.json")
        beat = beat if beat and beat["attempt"] == attempt.number else None
        state = end or {"state": "running" if attempt.log.exists() else "queued", "exit_code": None, "failure": None}
        at = datetime.datetime.fromtimestamp(record["at"], datetime.timezone.utc).isoformat()
        return {"id": attempt.id, "digest": record["digest"], **state, "heartbeat": beat, "submitted_at": at,
                "age_s": max(0, int(time.time() - record["at"]))}

    def before(self, attempt, digest, resources):
        """The attempt where it is there already; else it must be one that can be begun."""
        if record := read_json(attempt.begun):
            if record["digest"] != digest:
                raise Problem(409, "other-bundle", "Another bundle", f"its digest is {record['digest']}")
            return self.view(attempt)
        self.fits(resources)
        others = [path.stem for path in attempt.folder.glob("attempts/*.json") if path.stem.isdigit()]
        for other in (Attempt(self.jobs, f"{attempt.key}-{number}") for number in others):
            if self.view(other)["state"] in ("queued", "running"):
                raise Problem(429, "busy", "The job runs", f"attempt `{other.id}` at this job is not over", 5)
        return None

    def submit(self, attempt, digest, resources, packed):
        place = None
        if packed:
            place = pathlib.Path(tempfile.mkdtemp(dir=self.jobs / "incoming"))
        try:
            if packed:
                unpack(packed, place)
            job = self.job(place or attempt.bundle, attempt, digest)
            with self.begin:
                if view := self.before(attempt, digest, resources):
                    return 200, view
                (attempt.folder / "attempts").mkdir(parents=True, exist_ok=True)
                if place and not attempt.bundle.exists():
                    os.replace(place, attempt.bundle)
                record = {"digest": digest, "at": time.time(), "call": None, "cancel_asked": False}
                # The intent first: what is killed here is an attempt that was lost, and never two.
                write_json(attempt.begun, record)
                self.runner.saved()
                record["call"] = self.runner.spawn(attempt, resources, job["timeout_s"])
                write_json(attempt.begun, record)
                self.runner.saved()
                return 202, self.view(attempt)
        finally:
            if place:
                shutil.rmtree(place, ignore_errors=True)

    @staticmethod
    def job(bundle, attempt, digest):
        try:
            text = (bundle / "job.json").read_bytes()
        except FileNotFoundError:
            raise bad_bundle("the bundle has no `job.json`") from None
        if hashlib.sha256(text).hexdigest() != digest:
            raise bad_bundle("`job.json` is not the one whose digest was announced")
        if not attempt.key.endswith(f"-{digest[:20]}"):
            raise bad_bundle(f"job `{attempt.id}` is not named by the digest of its bundle")
        job = json.loads(text)
        if not 0 < job["timeout_s"] <= LONGEST_S - GRACE_S - TO_SAVE_S:
            raise Problem(422, "unschedulable", "Too long", f"`timeout` is {job['timeout_s']} s, and a function takes a day at most")
        for path, want in job["files"].items():
            if not (bundle / path).is_file():
                raise bad_bundle(f"the bundle has no `{path}`")
            if path == "dataset.jsonl" and hashlib.sha256((bundle / path).read_bytes()).hexdigest() != want:
                raise bad_bundle("`dataset.jsonl` is not the one that `job.json` names")
        return job

    def cancel(self, attempt):
        with self.begin:  # or the note of its call would be written over this one
            record = attempt.record()
            if not attempt.end.exists():
                write_json(attempt.begun, record | {"cancel_asked": True})
                self.runner.saved()
                self.runner.cancel(attempt, record["call"])
        return self.view(attempt)

    def remove(self, attempt):
        if self.view(attempt)["state"] in ("queued", "running"):
            raise Problem(409, "running", "It runs", f"attempt `{attempt.id}` runs: cancel it first")
        shutil.rmtree(attempt.folder)
        self.runner.saved()

    def artifact(self, attempt):
        """A file that is gone with its handle, and its digest."""
        names = ["metrics.jsonl", "result.json"]
        if self.view(attempt)["state"] != "succeeded":
            raise Problem(404, "no-artifact", "No artefact", "result.json")
        adapter = attempt.out / "adapter"
        names = [f"adapter/{path.name}" for path in sorted(adapter.iterdir())] + names if adapter.is_dir() else ["adapter"]
        file = tempfile.TemporaryFile()
        with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
            for name in names:
                if not (attempt.out / name).is_file():
                    raise Problem(404, "no-artifact", "No artefact", name)
                tar.add(attempt.out / name, name)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        length = file.tell()
        file.seek(0)
        return file, length, digest


def unpack(packed, place):
    """Plain files and folders below `place`, and nothing else."""
    left, entries = MOST_BYTES, 0
    try:
        with tarfile.open(fileobj=packed, mode="r:gz") as tar:
            for member in tar:
                entries, left = entries + 1, left - member.size
                parts = pathlib.PurePosixPath(member.name).parts
                if member.name.startswith("/") or ".." in parts or not parts:
                    raise bad_bundle(f"the bundle can't be unpacked: `{member.name}` is no plain path within it")
                if not (member.isreg() or member.isdir()):
                    raise bad_bundle(f"the bundle can't be unpacked: `{member.name}` is neither a file nor a folder")
                if left < 0 or entries > MOST_ENTRIES:
                    raise Problem(413, "too-large", "Too large", f"the bundle has more than {MOST_BYTES} bytes")
                tar.extract(member, place, filter="data")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise bad_bundle(f"the bundle can't be unpacked: {error}") from None


def build(worker, secret=None):
    """The ASGI app. `secret` is Modal's key and secret where Modal itself does not look at them."""
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse, StreamingResponse
    from starlette.concurrency import run_in_threadpool

    api = FastAPI(title="tunesmith worker", openapi_url=None)

    @api.exception_handler(Problem)
    async def problem(_, error):
        headers = {"Retry-After": str(error.after_s)} if error.after_s else {}
        return JSONResponse(error.body, error.status, headers, media_type="application/problem+json")

    @api.middleware("http")
    async def known(request: Request, go_on):
        given = [request.headers.get(name, "") for name in ("modal-key", "modal-secret")]
        if secret and not all(hmac.compare_digest(one.encode(), other.encode()) for one, other in zip(given, secret)):
            return await problem(request, Problem(401, "unauthenticated", "Unauthenticated",
                                                  "these are not the key and the secret of this worker"))
        return await go_on(request)

    def resources(request):
        text = request.headers.get("x-job-resources")
        try:
            asked = json.loads(text) if text else None
            if asked and not all(isinstance(asked[name], int) for name in ("gpu_count", "nodes", "cpu", "memory_mib")):
                raise ValueError("numbers are due")
            return asked and {"gpu": None, **asked}
        except (ValueError, KeyError, TypeError) as error:
            raise Problem(400, "malformed", "Malformed request", f"`x-job-resources`: {error}") from None

    @api.get("/v1/worker")
    def info(request: Request):
        return worker.info(resources(request))

    @api.put("/v1/jobs/{job_id}")
    async def submit(job_id: str, request: Request):
        attempt = await run_in_threadpool(worker.attempt, job_id)
        digest, asked = request.headers.get("x-bundle-sha256", ""), resources(request)
        if not DIGEST.fullmatch(digest) or not asked:
            raise Problem(400, "malformed", "Malformed request", "`x-bundle-sha256` and `x-job-resources` are due")
        if view := await run_in_threadpool(worker.before, attempt, digest, asked):
            return JSONResponse(view, 200)
        with tempfile.TemporaryFile(dir=worker.jobs / "incoming") as packed:
            async for piece in request.stream():
                packed.write(piece)
                if packed.tell() > MOST_BYTES:
                    raise Problem(413, "too-large", "Too large", f"the bundle is longer than {MOST_BYTES} bytes")
            empty = packed.tell() == 0
            packed.seek(0)
            if empty and not (attempt.bundle / "job.json").is_file():
                raise Problem(422, "no-bundle", "No bundle", "no attempt before has brought the bundle: send it as the body")
            status, view = await run_in_threadpool(worker.submit, attempt, digest, asked, None if empty else packed)
        return JSONResponse(view, status)

    @api.get("/v1/jobs/{job_id}")
    def status(job_id: str):
        return worker.view(worker.attempt(job_id))

    @api.get("/v1/jobs/{job_id}/logs")
    def logs(job_id: str, offset: int = 0):
        attempt = worker.attempt(job_id)
        attempt.record()
        piece = b""
        if attempt.log.exists():
            with open(attempt.log, "rb") as log:
                log.seek(offset)
                piece = log.read(LONGEST_LOG)
        return Response(piece, media_type="text/plain", headers={"X-Next-Offset": str(offset + len(piece))})

    @api.post("/v1/jobs/{job_id}/cancel")
    def cancel(job_id: str):
        return JSONResponse(worker.cancel(worker.attempt(job_id)), 202)

    @api.get("/v1/jobs/{job_id}/artifact")
    def artifact(job_id: str):
        file, length, digest = worker.artifact(worker.attempt(job_id))
        pieces = iter(lambda: file.read(1 << 18), b"")
        headers = {"Content-Length": str(length), "X-Artifact-Sha256": digest}
        return StreamingResponse(pieces, media_type="application/gzip", headers=headers)

    @api.delete("/v1/jobs/{job_id}")
    def remove(job_id: str):
        worker.remove(worker.attempt(job_id))
        return Response(status_code=204)

    return api


def local():
    """For uvicorn: processes of this machine."""
    runner = Processes(os.environ["JOBS_DIR"], os.environ["TUNESMITH"])
    return build(Worker(runner), (os.environ["MODAL_KEY"], os.environ["MODAL_SECRET"]))


if modal:
    app = modal.App("tunesmith")
    volume = modal.Volume.from_name("tunesmith-jobs", create_if_missing=True)
    binary = os.environ.get("TUNESMITH", "target/release/tunesmith")
    image = modal.Image.from_registry("nvidia/cuda:12.8.1-base-ubuntu24.04", add_python="3.12").pip_install("fastapi==0.165.0")
    if modal.is_local():
        image = image.add_local_file(binary, "/opt/tunesmith", copy=True).run_commands("chmod 755 /opt/tunesmith")

    @app.function(image=image, volumes={"/jobs": volume}, timeout=3600, retries=0, single_use_containers=True, name="train")
    def train_at_modal(job_id):
        volume.reload()
        return train(Attempt(pathlib.Path("/jobs"), job_id), "/opt/tunesmith", volume.commit)

    # One container: that an attempt is looked for and then begun is one step there.
    @app.function(image=image, volumes={"/jobs": volume}, max_containers=1)
    @modal.concurrent(max_inputs=50)
    @modal.asgi_app(requires_proxy_auth=True)
    def web():
        return build(Worker(Functions(train_at_modal, volume, "/jobs")))
