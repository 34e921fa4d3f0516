"""What the checks of single engines share: the scenario's set-up, and one training that is repeated under other circumstances."""
import array
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import types

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import scenario  # noqa: E402


def tensors(path):
    """The tensors of a safetensors file, all of them f32."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    for name, tensor in sorted(header.items()):
        if tensor["dtype"] != "F32":
            sys.exit(f"{path}: {name} is {tensor['dtype']}")
        begin, end = tensor["data_offsets"]
        yield name, array.array("f", data[start + begin:start + end])


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
        # Not the training that is repeated below: an engine remembers for a while what became of it.
        command = self.command("finetune", "--epochs", "1", *words)
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        told = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
        holds = done.returncode == 1 and all(text in done.stderr for text in says)
        self.check(f"{what}: {told}", holds)
        if not holds:
            print(done.returncode, done.stderr, file=sys.stderr)
        self.check(f"{what}: nothing is left at the engine", not self.active())

    def nearly_the_same(self, what, ours, theirs, tolerance):
        """Weights of a training that several processes shared differ by the order of their sums."""
        ours, theirs = (dict(tensors(pathlib.Path(report["adapter_path"]) / "adapter_model.safetensors")) for report in (ours, theirs))
        furthest = max(abs(a - b) for name in theirs for a, b in zip(ours[name], theirs[name], strict=True))
        self.check(f"{what}: no weight is further than {furthest:.1e} from the local run's", furthest <= tolerance)

    def two_ranks(self, local, fragment):
        """One training on two machines."""
        self.forget()
        self.remote(fragment)
        report, took_s = self.finetune(2)
        print(f"      two machines took {took_s:.1f} s")
        self.nearly_the_same("two machines", report, local, 1e-5)
        self.remote(self.default)

    def key(self):
        return self.wait("a job", lambda: next((job["key"] for job in self.jobs() if job["state"]["is"] == "open"), None))

    def ends_well(self, running, seconds=240):
        out, _ = running.communicate(timeout=seconds)
        if running.returncode != 0:
            sys.exit(self.log())
        return json.loads(out)

    def end(self, started):
        shutil.rmtree(self.work, ignore_errors=True)
        print(f"{len(self.failures)} did not hold; {time.monotonic() - started:.0f} s")
        if self.failures:
            sys.exit(1)
