"""What the checks of single engines share: the scenario's set-up, one training that is repeated under other circumstances, and a
cluster whose second node is a network namespace."""
import array
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
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


def processes(on_node2, having=""):
    """Those whose command has the text, on the second node or on the others."""
    network = os.readlink(f"/proc/{os.environ['NODE2']}/ns/net")
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        try:
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if (os.readlink(f"/proc/{pid}/ns/net") == network) == on_node2 and having in command:
                yield pid
        except OSError:
            pass  # it has ended


def kill(pids):
    """At once; not this process, nor the one that keeps the second node's network."""
    for pid in set(pids) - {os.getpid(), int(os.environ["NODE2"])}:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(pid, signal.SIGKILL)


class EngineCheck(scenario.Scenario):
    def __init__(self, tunesmith, provider, fragment, active, kill=f"{sys.executable} {HERE / 'trainers.py'} --kill"):
        super().__init__(types.SimpleNamespace(
            tunesmith=os.path.abspath(tunesmith), provider=provider, active=active, kill=kill, figures=os.environ.get("FIGURES")))
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
        self.check(f"{what}: {told}", holds, f"{done.returncode} {done.stderr}")
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

    def ends_well(self, running):
        out, _ = running.communicate(timeout=300)
        if running.returncode != 0:
            sys.exit(self.log())
        return json.loads(out)

    def goes_on(self, what, running, local):
        """From a checkpoint of its first attempt, of which it gives the failure."""
        report = self.ends_well(running)
        self.check(f"{what}: it went on from a checkpoint", (report["resumed_at"] or 0) >= 5)
        self.same_bytes(what, local, report)
        return self.jobs()[0]["attempts"][0]["failure"]

    def without_its_node(self, running, local, says=""):
        """The node that trained is gone; the next attempt goes on, on the other one."""
        began = time.monotonic()
        self.wait("another attempt", lambda: len(self.jobs()[0]["attempts"]) == 2)
        print(f"      told after {time.monotonic() - began:.0f} s")
        failure = self.goes_on("a lost node", running, local)
        self.check(f"a lost node: {failure['message'][:200]}", failure["kind"] == "node_lost" and says in failure["message"])
