"""What stand-ins of clouds share: an HTTP server, one machine's care for a job's process, and what a test steers all that by:
`POST /_test/NAME`, which is never refused. What a cloud's calls, jobs and answers look like is its own stand-in's.

    stand_in.py ADDRESS NAME      asks such a question: for the hooks of the scenario
"""
import http.server
import json
import shutil
import sys
import threading
import time
import urllib.request

# Seconds from SIGTERM to SIGKILL; SageMaker's are 120.
GRACE = 60
SYNC = 0.3


class Refused(Exception):
    """An answer of this status, with this body."""

    def __init__(self, status, body):
        super().__init__(body)
        self.status, self.body = status, body


class Lost(Exception):
    """There was an answer, and it never comes."""


class Controls:
    """What a test can bring about: each is set by a `POST /_test/NAME` whose body is its value as JSON."""

    def __init__(self, **of_its_own):
        self.throttle = 0         # so many calls are answered with the request to come back later
        self.quota = False        # no machine may be had
        self.hold = False         # jobs wait for a machine
        self.fail_next = None     # `Code: message` of the next job's failure
        self.damage_next = None   # a file of the next job's output that is damaged
        self.lose_answer = False  # the next job is begun, and the answer is lost
        vars(self).update(of_its_own)

    def take(self, name):
        value = getattr(self, name)
        setattr(self, name, None if value is not True else False)
        return value

    def throttled(self):
        """Whether this call is one of those."""
        self.throttle -= 1
        return self.throttle >= 0


class Machine:
    """What a cloud does with a job: `train`, which starts `job.process`, and `sync`, which keeps its files in step with the store."""

    def __init__(self, job, folder, controls):
        self.job, self.folder, self.controls = job, folder / job.name, controls
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self):
        try:
            self.train()
        except Exception as error:  # whatever it is, a client has to be told of it
            self.job.fail(f"InternalServerError: {error!r}")

    def wait(self, seconds):
        """Until the process has ended; why it had to, where it had to: `stop` or `time`."""
        began, asked, why = time.time(), None, None
        while self.job.process.exit_code() is None:
            if not why and (self.job.stopping or time.time() - began > seconds):
                why, asked = ("stop" if self.job.stopping else "time"), time.time()
                self.job.process.signal("TERM")
            if asked and time.time() - asked > GRACE:
                self.job.process.signal("KILL")
            self.sync()
            time.sleep(SYNC)
        return why


class Contract:
    """A cloud, as far as a client sees. `answer(method, url, headers, body)` gives the status and what is to be told as JSON."""

    content_type = "application/json"

    def __init__(self, controls):
        self.controls, self.jobs, self.lock = controls, {}, threading.Lock()

    def begin(self, machine):
        threading.Thread(target=machine.run, daemon=True).start()
        if self.controls.take("lose_answer"):
            raise Lost

    def test(self, name, value):
        """What a test asks for, or brings about."""
        active = [job for job in self.jobs.values() if not job.ended()]
        for job in active:
            if name == "kill" and job.process:
                job.process.signal("KILL")
            if name == "stop":
                job.stop()
        if name in ("active", "kill", "stop"):
            return [job.name for job in active]
        if name == "jobs":
            return {job.name: job.told() for job in self.jobs.values()}
        if name not in vars(self.controls):
            raise Refused(404, f"a test can't ask for {name}")
        setattr(self.controls, name, value)
        return None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        contract = self.server.contract
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.path.startswith("/_test/"):
                status, answer = 200, contract.test(self.path.removeprefix("/_test/"), json.loads(body or b"null"))
            else:
                status, answer = contract.answer(self.command, self.path, self.headers, body)
        except Refused as refused:
            status, answer = refused.status, refused.body
        except Lost:
            self.close_connection = True
            return self.connection.shutdown(2)
        content = b"" if status == 202 else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", contract.content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = answer

    def log_message(self, *_words):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # who asks may lose patience
            super().handle_error(request, client_address)


def serve(port, contract):
    server = Server(("127.0.0.1", int(port)), Handler)
    server.contract = contract
    server.serve_forever()


def ask(address, name, value=None):
    """What a stand-in answers to a test's own question."""
    request = urllib.request.Request(f"{address}/_test/{name}", data=json.dumps(value).encode(), method="POST")
    return json.loads(urllib.request.urlopen(request, timeout=30).read())


if __name__ == "__main__":
    print("\n".join(ask(*sys.argv[1:]) or []))
