"""What the checks of clouds share, whose engine is a stand-in on this machine: runs whose jobs are told apart by a name, and what is
asked of every cloud alike."""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request

import stand_in
from engine_check import EngineCheck
from scenario import wait


@contextlib.contextmanager
def serving(address, *command, **options):
    """A server, which answers at the address, for as long as the block takes."""
    def answers():
        try:
            urllib.request.urlopen(address, timeout=1)
        except urllib.error.HTTPError:
            pass
        except OSError:
            return False
        return True

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    try:
        wait(address, answers, 60)
        yield
    finally:
        process.terminate()
        process.wait()


class CloudCheck(EngineCheck):
    """Of the cloud's store it has to know: `read(path)`, which gives `None` where nothing is, and `remove(prefix)`."""

    def __init__(self, tunesmith, provider, fragment, address, jobs, read, remove):
        hook = f"{sys.executable} {pathlib.Path(stand_in.__file__)} {address}"
        super().__init__(tunesmith, provider, fragment, f"{hook} active", f"{hook} kill")
        self.address, self.jobs_folder, self.read, self.remove = address, jobs, read, remove
        self.names = []

    def ask(self, name, value=None):
        return stand_in.ask(self.address, name, value)

    def made(self):
        return len(self.ask("jobs"))

    def begin(self, name, epochs=40, fragment=None, environment=None):
        """Another name is another job."""
        self.remote(fragment or self.default)
        if name not in self.names:
            self.names.append(name)
        rate = f"{1e-3 + 1e-5 * self.names.index(name):.5f}"
        return subprocess.Popen(self.command("finetune", "--epochs", str(epochs), "--learning-rate", rate), stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})

    def outcome(self, running):
        """Exit code, what it reported, and what it said."""
        out, told = running.communicate(timeout=240)
        return running.returncode, json.loads(out) if running.returncode == 0 else None, told

    def train(self, name, epochs=1, **options):
        return self.outcome(self.begin(name, epochs, **options))

    def refused(self, what, outcome, *words):
        """It ended with exit code 1, and said all of `words`."""
        code, report, told = outcome
        self.check(what, code == 1 and all(word in told for word in words), f"{code} {report}\n{told}\nwanted: {words}")

    def folder(self, attempt):
        """Where the job of an attempt has its files in the store."""
        return f"{self.jobs_folder}/{attempt.rsplit('-', 1)[0]}"

    def training(self):
        """Whether the job that is active has told of a step."""
        beats = [self.read(f"{self.folder(attempt)}/out/heartbeat.json") for attempt in self.ask("active")]
        return any(beat and json.loads(beat)["step"] > 0 for beat in beats)

    def begin_and_train(self, name, **options):
        running = self.begin(name, **options)
        self.wait("a job that runs", self.training, 180)
        return running

    def no_quota(self, *words):
        self.ask("quota", True)
        self.refused("no quota", self.train("quota"), *words)
        self.ask("quota", False)
        # Nothing of it runs, and its bundle is there: for another try, or to be removed.
        key = self.key()
        bundle = f"{self.jobs_folder}/{key}/bundle/job.json"
        left = self.read(bundle)
        self.run("jobs", "cancel", key)
        self.run("jobs", "remove", key)
        self.check("no quota: its bundle is removed with the job", left and self.read(bundle) is None, left)

    def lost_answer(self, throttle):
        self.ask("throttle", throttle)
        self.ask("lose_answer", True)
        code, _, told = self.train("throttled")
        self.check("throttled, and the answer to the submission lost: done", code == 0, told)
        self.check("throttled, and the answer lost: one job", self.made() == 1, self.ask("jobs"))

    def failing(self, what, reason):
        self.ask("fail_next", reason)
        code, report, told = self.train("failing")
        self.check(f"{what}: another attempt does it", code == 0 and report["job"]["attempts"] == 2, told)

    def no_capacity(self, reason, said):
        self.ask("fail_next", reason)
        before = self.made()
        self.refused("no capacity", self.train("capacity"), "can't be scheduled", said)
        self.check("no capacity: one attempt", self.made() == before + 1)

    def meddled_with(self, *words):
        """What somebody else does to a job's files, and to the job."""
        self.ask("damage_next", "adapter/adapter_model.safetensors")
        self.refused("a damaged adapter", self.train("damaged"), "is damaged: `adapter/adapter_model.safetensors` has SHA-256")

        self.ask("hold", True)
        running = self.begin("missing")
        self.wait("a job", lambda: self.ask("active"), 180)
        self.remove(f"{self.folder(self.ask('active')[0])}/bundle/")
        self.ask("hold", False)
        self.refused("an input that isn't there any more", self.outcome(running), *words)
        self.idle()

        running = self.begin_and_train("stopped")
        self.ask("stop")
        self.refused("stopped by somebody else", self.outcome(running), "was cancelled")
        self.idle()

    def locked_out(self, what, control, says, remedy):
        """The credentials are refused in the middle of a job, and are good again later."""
        running = self.begin_and_train("locked out", epochs=15)
        self.ask(control, True)
        self.refused(what, self.outcome(running), says)
        self.ask(control, False)
        before = self.made()
        code, report, told = self.train("locked out", epochs=15)
        self.check(f"{remedy} the job is taken up again", code == 0 and report["job"]["attempts"] == 1, told)
        self.check(f"{remedy}: no second job", self.made() == before)
        self.idle()
