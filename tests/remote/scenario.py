#!/usr/bin/env python3
"""What must hold of every engine, against a real one: the adapter of a job is the local run's, byte for byte, whatever
happens to the job, its machine and its host; and nothing is left running or is paid for twice.

    scenario.py TUNESMITH --remote FRAGMENT --provider NAME --kill COMMAND --active COMMAND [--figures FILE]

FRAGMENT is TOML: the keys of `[remote]` and of `[remote.NAME]`. `--kill` ends the trainer of the job that runs, as a
machine's failure would; `--active` prints the jobs that the engine has queued or running, one a line (a pattern of
`pgrep -f` must not find its own shell: `[t]rain`).
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

QUICKSTART = pathlib.Path(__file__).resolve().parents[2] / "examples" / "quickstart"
ADAPTER_FILES = ["adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"]
# Long enough to be met in the middle, short enough to be waited for.
SHORT, LONG = 2, 16


class Scenario:
    def __init__(self, args):
        self.args = args
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="tunesmith-scenario-"))
        self.base = self.work / "base"
        shutil.copytree(QUICKSTART / "base", self.base)
        shutil.copy(QUICKSTART / "telemetry.jsonl", self.work / "telemetry.jsonl")
        self.figures = {}
        self.failures = []

    def config(self, remote):
        """The configuration file of local or of remote runs; both have the same base, so that adapters name the same."""
        path = self.work / ("remote.toml" if remote else "local.toml")
        backend = ['backend = "remote"', f'backend_provider = "{self.args.provider}"', 'gpu = "none"', "cpu = 1",
                   "memory = 512", "timeout = 300"] if remote else []
        text = "\n".join([
            'project = "quickstart"', 'agent_type = "routing"', f'base_model = "{self.base}"',
            f'output_dir = "{self.work}/{"remote" if remote else "local"}"', "batch_size = 8", "learning_rate = 2e-3",
            *backend, "", "[telemetry]", f'store = "{self.work}/telemetry.sqlite"',
            f'import = ["{self.work}/telemetry.jsonl"]', "", "[training]", "checkpoint_steps = 5", "",
            "[compute]", "device = \"cpu\"", "threads = 1", "",
        ])
        text += pathlib.Path(self.args.remote).read_text() if remote else ""
        # A run that starts may be reading it.
        if not path.exists() or path.read_text() != text:
            path.with_suffix(".new").write_text(text)
            path.with_suffix(".new").rename(path)
        return path

    def command(self, *words, remote=True):
        return [self.args.tunesmith, *words, "--config", str(self.config(remote)), "--json"]

    def run(self, *words, remote=True, code=0):
        done = subprocess.run(self.command(*words, remote=remote), capture_output=True, text=True)
        if done.returncode != code:
            sys.exit(f"`{' '.join(words)}` ended with {done.returncode}, not {code}:\n{done.stdout}\n{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None, done.stderr

    def finetune(self, epochs, remote=True):
        start = time.monotonic()
        report, _ = self.run("finetune", "--epochs", str(epochs), remote=remote)
        return report, time.monotonic() - start

    def start(self, epochs):
        log = open(self.work / "finetune.log", "wb")
        command = self.command("finetune", "--epochs", str(epochs))
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)

    def log(self):
        path = self.work / "finetune.log"
        return path.read_text() if path.exists() else ""

    def jobs(self):
        return self.run("jobs", "list")[0]

    def active(self):
        out = subprocess.run(self.args.active, shell=True, capture_output=True, text=True, check=True).stdout
        return out.split()

    def key(self):
        """The job's that is open, as soon as one is."""
        return self.wait("a job", lambda: next((job["key"] for job in self.jobs() if job["state"]["is"] == "open"), None))

    def wait(self, what, condition, seconds=120):
        return wait(what, condition, seconds, self.log)

    def wait_for_step(self, key, least):
        """Until the job's heartbeat tells of a step: its checkpoint is there by then."""
        def reached():
            text = subprocess.run(
                [self.args.tunesmith, "jobs", "list", "--config", str(self.config(True))], capture_output=True, text=True
            ).stdout
            for line in text.splitlines():
                if key in line and "step " in line:
                    return int(line.split("step ")[1].split()[0]) >= least
            return False
        self.wait(f"step {least}", reached)

    def check(self, what, holds, told=""):
        """`told` is what happened, for who has to find out why it does not hold."""
        print(f"{'ok  ' if holds else 'FAIL'}  {what}", flush=True)
        if not holds:
            self.failures.append(what)
            if told:
                print(str(told)[-3000:], flush=True)

    def same_bytes(self, what, ours, theirs):
        ours, theirs = pathlib.Path(ours["adapter_path"]), pathlib.Path(theirs["adapter_path"])
        for name in ADAPTER_FILES:
            self.check(f"{what}: {name} has the local run's bytes", (ours / name).read_bytes() == (theirs / name).read_bytes())

    def idle(self):
        self.wait("an idle engine", lambda: not self.active(), 60)

    def cancel(self, what, key, running):
        self.run("jobs", "cancel", key)
        self.check(f"{what}: the run ends with exit code 1", running.wait(120) == 1)
        self.check(f"{what}: it says so", "was cancelled" in self.log())

    def play(self):
        self.finetune(SHORT, remote=False)  # compiles plugins, once for both sides
        local_short, local_s = self.finetune(SHORT, remote=False)
        local_long, _ = self.finetune(LONG, remote=False)

        # Submitted, attended, fetched.
        remote, remote_s = self.finetune(SHORT)
        self.same_bytes("a job", local_short, remote)
        self.check("a job: its first attempt did it", remote["job"]["attempts"] == 1)
        self.figures |= {"local_s": local_s, "remote_s": remote_s, "overhead_s": remote_s - local_s,
                         "job_s": remote["job"]["took_s"]}
        log = subprocess.run(self.command("jobs", "logs", remote["job"]["key"]), capture_output=True, text=True).stdout
        self.check("a job: its log tells of the training", "train" in log)
        self.idle()

        # Once more the same: nothing is trained, and the adapter is there.
        again, again_s = self.finetune(SHORT)
        self.check("the same again: it is the same job", again["job"]["key"] == remote["job"]["key"])
        self.check("the same again: no other attempt", len(self.jobs()[0]["attempts"]) == 1)
        self.same_bytes("the same again", local_short, again)
        self.figures["again_s"] = again_s

        # Cancelled in the middle.
        running = self.start(LONG)
        key = self.key()
        self.wait_for_step(key, 12)
        self.cancel("cancelled", key, running)
        self.idle()

        # The same command goes on from the checkpoint. Its host is killed, and takes the job up again; then its machine is.
        running = self.start(LONG)
        self.wait("an attempt", lambda: len(self.jobs()[0]["attempts"]) == 2 and self.jobs()[0]["attempts"][1]["handle"])
        self.wait_for_step(key, 20)
        running.send_signal(signal.SIGKILL)
        running.wait()
        self.check("a killed host: its job goes on", len(self.active()) == 1)
        running = self.start(LONG)
        self.wait("the job, taken up", lambda: "is taken up again" in self.log())
        self.check("a killed host: no second job", len(self.active()) == 1)
        subprocess.run(self.args.kill, shell=True, check=True)
        out, _ = running.communicate(timeout=240)
        self.check("a killed machine: the run ends well", running.returncode == 0)
        if running.returncode != 0:
            sys.exit(self.log())
        report = json.loads(out)
        self.same_bytes("cancelled, host killed, machine killed", local_long, report)
        attempts = self.jobs()[0]["attempts"]
        self.check("three attempts were made", len(attempts) == 3)
        self.check("the last went on from a checkpoint", (report["resumed_at"] or 0) >= 10)
        self.idle()
        self.figures["failure"] = attempts[1]["failure"]
        print(json.dumps(self.figures, indent=1))
        if self.args.figures:
            pathlib.Path(self.args.figures).write_text(json.dumps(self.figures, indent=1) + "\n")


def wait(what, condition, seconds, log=lambda: ""):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.3)
    sys.exit(f"{what}: not within {seconds} s\n{log()}")


def run(make, *parts):
    """Each part has a host of its own, which `make` gives and which is no more afterwards. What does not hold is told at the end."""
    started, failures = time.monotonic(), []
    for part in parts:
        scenario = make()
        try:
            part(scenario)
        finally:
            shutil.rmtree(scenario.work, ignore_errors=True)
        failures += scenario.failures
    print(f"{len(failures)} did not hold; {time.monotonic() - started:.0f} s", flush=True)
    if failures:
        sys.exit(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tunesmith", type=os.path.abspath)
    for name in ("remote", "provider", "kill", "active"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--figures")
    run(lambda: Scenario(parser.parse_args()), Scenario.play)


if __name__ == "__main__":
    main()
