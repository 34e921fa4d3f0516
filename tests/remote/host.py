"""A host that has its jobs done elsewhere, as tests of one engine's own ways need it: the quick start's data, small trainings."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.request

QUICKSTART = pathlib.Path(__file__).resolve().parents[2] / "examples" / "quickstart"


class Host:
    def __init__(self, binary, work, provider, environment):
        self.binary, self.work, self.provider, self.environment = binary, work, provider, environment
        self.base = work / "base"
        shutil.copytree(QUICKSTART / "base", self.base)
        shutil.copy(QUICKSTART / "telemetry.jsonl", work / "telemetry.jsonl")
        self.failures = []

    def command(self, name, fragment, *words, epochs=1):
        """Of a host of its own: another `name` is another folder of jobs, and other jobs."""
        folder = self.work / name
        folder.mkdir(exist_ok=True)
        learning_rate = 1e-3 + sum(name.encode()) * 1e-7  # another job
        config = folder / "tunesmith.toml"
        config.write_text("\n".join([
            'project = "quickstart"', 'agent_type = "routing"', f'base_model = "{self.base}"', f'output_dir = "{folder}/out"',
            "batch_size = 8", f"epochs = {epochs}",
            f"learning_rate = {learning_rate:.7f}", 'backend = "remote"', f'backend_provider = "{self.provider}"',
            'gpu = "none"', "cpu = 1", "memory = 512", "timeout = 300", "", "[telemetry]",
            f'store = "{self.work}/telemetry.sqlite"', f'import = ["{self.work}/telemetry.jsonl"]', "", "[training]",
            "checkpoint_steps = 5", "", "[compute]", 'device = "cpu"', "threads = 1", "", fragment]))
        return [self.binary, *(words or ["finetune"]), "--config", str(config), "--json"]

    def run(self, name, fragment, *words, epochs=1, environment=None):
        """Exit code, what it reported, and what it said."""
        done = subprocess.run(self.command(name, fragment, *words, epochs=epochs), capture_output=True, text=True,
                              env={**os.environ, **self.environment, **(environment or {})})
        try:
            report = json.loads(done.stdout)
        except ValueError:
            report = None
        return done.returncode, report, done.stderr

    def start(self, name, fragment, epochs=40):
        return subprocess.Popen(self.command(name, fragment, epochs=epochs), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env={**os.environ, **self.environment})

    def check(self, what, holds, told=""):
        print(f"{'ok  ' if holds else 'FAIL'}  {what}", flush=True)
        if not holds:
            self.failures.append(what)
            print(str(told)[-3000:], flush=True)

    def refused(self, what, outcome, *words):
        """It ended with exit code 1, and said all of `words`."""
        code, report, told = outcome
        self.check(what, code == 1 and all(word in told for word in words), f"{code} {report}\n{told}\nwanted: {words}")

    def end(self):
        if self.failures:
            sys.exit(f"{len(self.failures)} did not hold")


def wait(what, condition, seconds=180):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.2)
    sys.exit(f"{what}: not within {seconds} s")


def asked(address, name, value=None):
    """What the engine's stand-in answers to a test's own question."""
    request = urllib.request.Request(f"{address}/_test/{name}", data=json.dumps(value).encode(), method="POST")
    return json.loads(urllib.request.urlopen(request, timeout=30).read())


def up(address, seconds=60):
    def answers():
        try:
            urllib.request.urlopen(address, timeout=1)
        except urllib.error.HTTPError:
            pass
        except OSError:
            return False
        return True
    wait(address, answers, seconds)


if __name__ == "__main__":  # host.py ADDRESS NAME: for the hooks of the scenario
    answer = asked(*sys.argv[1:])
    print("\n".join(answer or []))
