"""What the checks of single engines share: the scenario's set-up, and one training that is repeated under other circumstances."""
import os
import pathlib
import shutil
import subprocess
import sys
import time
import types

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import scenario  # noqa: E402


class EngineCheck(scenario.Scenario):
    def __init__(self, tunesmith, provider, fragment, active):
        super().__init__(types.SimpleNamespace(tunesmith=tunesmith, provider=provider, remote="fragment.toml", active=active))
        self.default = fragment
        self.remote(fragment)

    def remote(self, fragment):
        """From here on, jobs go by this piece of configuration."""
        path = self.work / "fragment.toml"
        path.write_text(fragment)
        self.args.remote = str(path)

    def forget(self):
        """The host knows no job any more: the same training is a new one."""
        for folder in [path for path in self.work.rglob("jobs") if path.is_dir()]:
            shutil.rmtree(folder)

    def fails(self, what, *words, says, environment=None):
        """A run that ends with exit code 1, tells `says`, and leaves nothing at the engine."""
        environment = {**os.environ, **(environment or {})}
        command = self.command("finetune", "--epochs", "2", *words)
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        told = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
        holds = done.returncode == 1 and all(text in done.stderr for text in says)
        self.check(f"{what}: {told}", holds)
        if not holds:
            print(done.returncode, done.stderr, file=sys.stderr)
        self.check(f"{what}: nothing is left at the engine", not self.active())

    def key(self):
        return self.wait("a job", lambda: next((job["key"] for job in self.jobs() if job["state"]["is"] == "open"), None))

    def ends_well(self, running, seconds=240):
        out, _ = running.communicate(timeout=seconds)
        if running.returncode != 0:
            sys.exit(self.log())
        return scenario.json.loads(out)

    def end(self, started):
        shutil.rmtree(self.work, ignore_errors=True)
        print(f"{len(self.failures)} did not hold; {time.monotonic() - started:.0f} s")
        if self.failures:
            sys.exit(1)
