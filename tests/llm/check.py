"""check.py TUNESMITH GGUF: the whole loop with a real server of a real model. See README.md."""

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
KEY = "key-of-the-check"
MISSING = 4  # examples that the run lacks
BUDGET = 60  # requests


class Llama:
    """llama.cpp's server for Python, on loopback and with a key."""

    def __init__(self, model, log):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}/v1", log
        command = [sys.executable, "-m", "llama_cpp.server", "--model", model, "--host", "127.0.0.1", "--port", str(port)]
        # One thread: two wait for each other actively, and the check is not the only one that computes.
        command += ["--n_ctx", "2048", "--n_threads", "1", "--api_key", KEY, "--verbose", "false"]
        self.process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT)
        self.wait()

    def wait(self):
        request = urllib.request.Request(f"{self.url}/models", headers={"authorization": f"Bearer {KEY}"})
        for _ in range(600):
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    self.model = json.load(answer)["data"][0]["id"]
                    return
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        sys.exit(f"the server did not start: {self.log.read_text()}")

    def requests(self):
        return len(re.findall(r"POST /v1/chat/completions HTTP", self.log.read_text()))

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


class Home:
    """A folder with the quick start's telemetry, for runs of the binary."""

    def __init__(self, binary, folder, url):
        self.binary, self.folder = Path(binary).resolve(), folder
        self.configure(1, url)
        (folder / "key").write_text(KEY + "\n")

    def configure(self, min_sft_examples, url):
        """A run that wants so many examples."""
        (self.folder / "tunesmith.toml").write_text(
            f"""project = "quickstart"
agent_type = "routing"
method = "sft"
base_model = "{QUICKSTART / 'base'}"
output_dir = "out"
epochs = 1
batch_size = 8
min_sft_examples = {min_sft_examples}

[telemetry]
store = "telemetry.sqlite"
import = ["{QUICKSTART / 'telemetry.jsonl'}"]

[synthetic]
generator = "endpoint"
synthetic_url = "{url}"
synthetic_api_key_file = "key"
synthetic_concurrency = 2
synthetic_max_requests = {BUDGET}
synthetic_timeout_s = 120
few_shot = 3
"""
        )

    def run(self, *args, code=0):
        """What a command says; `code` is how it has to end."""
        environment = {"HOME": str(self.folder), "PATH": os.environ["PATH"], "TUNESMITH_DEVICE": "cpu"}
        ended = subprocess.run(
            [self.binary, *args], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600
        )
        if ended.returncode != code or KEY in ended.stdout + ended.stderr:
            sys.exit(f"{args}: ended with {ended.returncode}, not {code}: {ended.stdout}{ended.stderr}")
        return ended

    def json(self, *args, code=0):
        return json.loads(self.run(*args, "--json", code=code).stdout)


def check(what, found, expected):
    print(f"{what}: {found}", flush=True)
    if found != expected:
        sys.exit(f"{what}: expected {expected}, found {found}")


def telemetry():
    """What the routing agent was asked and has answered."""
    lines = (QUICKSTART / "telemetry.jsonl").read_text().splitlines()
    spans = [line for line in map(json.loads, lines) if line.get("name") == "RoutingAgent.route"]
    texts = [(span["attributes"]["input.value"], span["attributes"].get("output.value")) for span in spans]
    return {folded(asked) for asked, _ in texts}, {answer for _, answer in texts if answer}


def folded(text):
    return " ".join(text.lower().split())


def refuses_a_wrong_key(home):
    (home.folder / "key").write_text("another key\n")
    ended = home.run("finetune", code=1)
    (home.folder / "key").write_text(KEY + "\n")
    told = re.search(r"error: .* answered 401 \(Invalid API key\): it does not accept the key in the file `(.*?)`", ended.stderr)
    check("the file of a wrong key", told and Path(told[1]).name, "key")
    check("a wrong key in the error", "another key" in ended.stderr, False)


def waits_for_people(home, server):
    """Ends with 3; returns the run's id."""
    waiting = home.json("finetune", code=3)["waiting"]
    submitted = waiting["submitted"]
    print(f"left out: {submitted['left_out']}")
    check("generator", submitted["generator"], "endpoint")
    check("requests within the budget", 0 < server.requests() <= BUDGET, True)
    # The grammar holds the model to the answers that the agent gives, and to the fields.
    check("answers that the agent never gave", submitted["left_out"].get("unknown answer", 0), 0)
    check("answers without the fields", submitted["left_out"].get("does not follow the schema", 0), 0)

    asked, answers = telemetry()
    store = sqlite3.connect(home.folder / "approvals.sqlite")
    batch = store.execute("SELECT generator, model, parents FROM batches").fetchone()
    check("its batch", batch[:2], ("endpoint", server.model))
    parents = json.loads(batch[2])
    check("parents are of the telemetry", {folded(p["content"]["input"]) for p in parents} <= asked, True)
    check("parents have spans", all(p["span_ids"] for p in parents), True)
    rows = store.execute("SELECT content, parents, prompt_sha256, seed FROM items").fetchall()
    check("items that wait", len(rows), submitted["generated"])
    if len(rows) < MISSING:
        sys.exit(f"{len(rows)} items cannot be enough for {MISSING}")
    contents = [json.loads(row[0]) for row in rows]
    for content in contents:
        print(f"    {content['input']!r} -> {content['output']}")
    inputs = {folded(content["input"]) for content in contents}
    check("answers are the agent's", {content["output"] for content in contents} <= answers, True)
    check("none is there twice", len(inputs), len(rows))
    check("none is of the telemetry", inputs & asked, set())
    check("each names its parents", all(json.loads(row[1]) for row in rows), True)
    check("and its prompt", all(re.fullmatch("[0-9a-f]{64}", row[2]) for row in rows), True)
    store.close()
    return waiting["run"]


def decided_by_people(home):
    """Rejects the first item and approves the others; returns the numbers of those."""
    items = home.json("review", "list", "--state", "pending", "--store", "telemetry.sqlite")["items"]
    handles = [item["handle"] for item in items]
    rejected, approved = handles[0], handles[1:]
    home.run("review", "reject", rejected, "--reason", "nobody asks this", "--store", "telemetry.sqlite")
    home.run("review", "approve", *approved, "--store", "telemetry.sqlite")
    return [int(handle.split("-")[0]) for handle in approved]


def trains_what_was_approved(home, run, approved):
    home.run("runs", "resume", run, "--store", "telemetry.sqlite")
    (adapter,) = (home.folder / "out").iterdir()
    check("adapter on the disk", (adapter / "adapter_model.safetensors").stat().st_size > 0, True)
    lineage = json.loads((adapter / "run.json").read_text())["lineage"]
    approvals = [each["approval"] for each in lineage if each.get("approval")]
    check("items that it was trained on", sorted(each["item"] for each in approvals), sorted(approved))
    check("who generated them", {each["generator"] for each in approvals}, {"endpoint"})
    check("somebody approved each", all(each["approved_by"] for each in approvals), True)
    held_out = [each for each in lineage if each["set"] == "held_out"]
    check("none judges", any(each.get("approval") for each in held_out), False)


def main():
    binary, model = sys.argv[1:]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        server = Llama(str(Path(model).resolve()), folder / "server.log")
        try:
            home = Home(binary, folder, server.url)
            have = home.json("analyze")["examples"]["approved_examples"]
            home.configure(have + MISSING, server.url)
            refuses_a_wrong_key(home)
            run = waits_for_people(home, server)
            asked = server.requests()
            home.run("runs", "resume", run, "--store", "telemetry.sqlite", code=3)
            check("requests of a run that waits", server.requests() - asked, 0)
            approved = decided_by_people(home)
            trains_what_was_approved(home, run, approved)
        finally:
            server.stop()
    print(f"all as it should be, in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
