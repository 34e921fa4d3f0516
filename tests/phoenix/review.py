"""review.py BINARY: a review in a real Phoenix, by `tunesmith review push` and `poll`; see README.md.

Exit code 0: every decision is a named person's, on the text that they saw; 1: something differs.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import httpx
from check import Check, start_server, url_of
from server import ADMIN_SECRET

PROJECT = "tunesmith-review"
ITEMS = 12


def content(index):
    return {
        "kind": "instruction",
        "instruction": "Route the following query",
        "input": f"question {index} über 天気",
        "output": "weather_agent",
    }


def digest(text):
    return hashlib.sha256(json.dumps(text, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def journal():
    """What a generator submits, as the approval store's journal has it."""
    batch = {"id": 1, "project": "acme", "agent_type": "routing", "run": None, "generator": "templates", "model": None}
    batch |= {"created_at_ms": 1, "expires_at_ms": None, "parents": [], "held_out": []}
    yield {"batch": batch}
    for index in range(1, ITEMS + 1):
        item = {"id": index, "batch": 1, "original": content(index), "parents": [], "near": []}
        yield {"item": item | {"prompt_sha256": "0" * 64, "seed": index}}
        event = {"id": index, "item": index, "version": 1, "at_ms": 1, "who": "tunesmith", "channel": "tunesmith"}
        event |= {"action": "submitted", "reason": None, "sha256_before": None, "sha256_after": digest(content(index))}
        yield {"event": event | {"content": None}}


class Review(Check):
    def review(self, *args, key=None):
        done = self.tunesmith("review", "--approvals", self.store, *args, "--json", key=key)
        if done.returncode != 0:
            sys.exit(f"{args}: {done.stderr}")
        return json.loads(done.stdout)

    def fill(self, name):
        self.store = self.folder / f"{name}.sqlite"
        lines = self.folder / f"{name}.lines"
        lines.write_text("".join(json.dumps(record) + "\n" for record in journal()))
        restored = self.review("restore", "--journal", lines)
        self.expect("items to review", restored["items"], ITEMS)

    def events(self, item):
        return [
            (event["action"], event["who"], event["channel"], event["reason"])
            for event in self.review("show", item)["events"][1:]
        ]


def shown(client):
    """The spans that show items, by item."""
    for _ in range(60):
        spans = client.get(f"/v1/projects/{PROJECT}/spans", params={"limit": 1000}).json().get("data", [])
        if len(spans) >= ITEMS:
            return {span["attributes"]["tunesmith.item"]: span for span in spans}
        time.sleep(0.5)
    sys.exit("the spans did not arrive")


def say(client, spans, item, label, identifier="", *, kind="HUMAN", name="human_approval", **more):
    annotation = {"span_id": spans[item]["context"]["span_id"], "name": name, "annotator_kind": kind}
    annotation |= {"identifier": identifier, "result": {"label": label, "explanation": more.pop("why", None)}, **more}
    client.post("/v1/span_annotations", params={"sync": "true"}, json={"data": [annotation]}).raise_for_status()


def by_name(check, url):
    server = ("--phoenix-url", url)
    client = httpx.Client(base_url=url)
    check.fill("open")
    check.expect("the first push", check.review("push", "--batch", 1, *server), {"new": ITEMS, "there": 0})
    spans = shown(client)
    check.expect("the second push", check.review("push", *server), {"new": 0, "there": ITEMS})
    first = spans[1]["attributes"]
    told = {key: first[key] for key in ("tunesmith.version", "tunesmith.content_sha256", "input.value", "output.value")}
    expected = {"tunesmith.version": 1, "tunesmith.content_sha256": digest(content(1))}
    check.expect("a span", told, expected | {"input.value": content(1)["input"], "output.value": "weather_agent"})

    say(client, spans, 1, "approved", "anna", why="as our users ask")
    say(client, spans, 2, "Rejected", "ben")
    say(client, spans, 3, "approved")  # by nobody
    say(client, spans, 4, "approved", "a-model", kind="LLM")
    say(client, spans, 5, "approved", "anna", name="relevance")
    say(client, spans, 6, "perhaps", "anna")
    say(client, spans, 7, "rejected", "anna", metadata={"corrected_output": "tide_agent"})
    say(client, spans, 8, "approved", "anna", why="the explanation is no correction")
    handle = check.review("list", "--limit", 12)["items"][8]["handle"]
    check.review("reject", handle)
    say(client, spans, 9, "approved", "anna")  # of what was decided meanwhile
    polled = check.review("poll", *server)
    check.expect("decisions", (polled["decided"], polled["known"]), (4, 0))
    left = {each["item"]: each["why"] for each in polled["left"]}
    check.expect("what was left", sorted(left), [3, 6, 9])
    check.expect("by nobody", left[3].startswith("the annotation names nobody"), True)
    check.expect("no verdict", left[6], "`perhaps` is neither `approved` nor `rejected`")
    check.expect("somebody was faster", left[9].startswith("item 9 has changed since you saw it: "), True)
    check.expect("approved", check.events(1), [("approved", "phoenix:anna", "phoenix", "as our users ask")])
    check.expect("rejected", check.events(2), [("rejected", "phoenix:ben", "phoenix", None)])
    for item in (3, 4, 5, 6, 10):
        check.expect(f"item {item}", check.events(item), [])
    check.expect("corrected", check.events(7), [("edited", "phoenix:anna", "phoenix", None)])
    check.expect("its answer", check.review("show", 7)["content"]["output"], "tide_agent")
    check.expect("no correction", check.review("show", 8)["state"], "approved")
    again = check.review("poll", *server)
    check.expect("a second poll", (again["decided"], again["known"], len(again["left"])), (0, 4, 3))

    # What was taken back is shown anew, and the old verdict does not decide it.
    check.review("undo", check.review("show", 1)["handle"])
    check.review("poll", *server)
    check.expect("taken back", check.review("show", 1)["state"], "pending")

    # What is shown for review is never data.
    telemetry = check.folder / "telemetry.sqlite"
    check.json("sync", "--phoenix-url", url, "--project", PROJECT, "--store", telemetry)
    config = check.folder / "any.toml"
    config.write_text('[agents.any]\ninstruction = "x"\nmatch = [{ name = "tunesmith.review" }]\n')
    args = ["--store", telemetry, "--project", PROJECT, "--agent-type", "any", "--config", config]
    analysis = check.json("analyze", *args)
    check.expect("spans of a review in training", analysis["examples"]["approved_examples"], 0)
    check.expect("what they are", analysis["skipped"].get("own span"), analysis["spans"])


def by_user(check, url):
    """A person who is signed in is known by the name of their account."""
    admin = httpx.Client(base_url=url, headers={"authorization": f"Bearer {ADMIN_SECRET}"})
    password = "a-Password-of-9-words"
    user = {"email": "carla@example.com", "username": "carla", "role": "MEMBER", "auth_method": "LOCAL"}
    created = admin.post("/v1/users", json={"user": user | {"password": password}, "send_welcome_email": False})
    created.raise_for_status()
    carla = httpx.Client(base_url=url)
    carla.post("/auth/login", json={"email": user["email"], "password": password}).raise_for_status()
    check.fill("users")
    server = ("--phoenix-url", url)
    check.review("push", *server, key=ADMIN_SECRET)
    spans = shown(admin)
    say(carla, spans, 1, "approved")
    polled = check.review("poll", *server, key=ADMIN_SECRET)
    check.expect("decisions of a user", polled["decided"], 1)
    check.expect("whose", check.events(1), [("approved", "phoenix:carla", "phoenix", None)])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-review-"))
    check = Review(os.path.abspath(sys.argv[1]), folder)
    servers = [start_server(folder / "phoenix"), start_server(folder / "phoenix-auth", "--auth")]
    try:
        by_name(check, url_of(servers[0]))
        by_user(check, url_of(servers[1]))
    finally:
        for running in servers:
            running.send_signal(signal.SIGKILL)
            running.wait()
    if check.failures == 0:
        shutil.rmtree(folder)
    print(f"\n{check.failures} failures" + (f"; all of it is in {folder}" if check.failures else ""))
    sys.exit(1 if check.failures else 0)


if __name__ == "__main__":
    main()
