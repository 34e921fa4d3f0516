"""check.py BINARY: `tunesmith sync` and `analyze` against a real Phoenix server and an oracle; see README.md.

Exit code 0: all agrees; 1: something differs.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import httpx
import oracle
import server

HERE = Path(__file__).parent
CONFIGS = {"default rules": None, "review.toml": HERE / "review.toml"}
PROJECT = "acme"
KILLS = 10
KILLS_AT_START = 60
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class Check:
    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.failures = 0
        # Neither a configuration nor a key of whoever runs this.
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("TUNESMITH_", "PHOENIX_"))
        }

    def expect(self, what, got, expected):
        same = got == expected
        self.failures += not same
        print(f"{'ok  ' if same else 'FAIL'} {what}: {got}" + ("" if same else f", expected {expected}"), flush=True)

    def tunesmith(self, *args, key=None):
        environment = self.environment | ({"PHOENIX_API_KEY": key} if key else {})
        return subprocess.run(
            [self.binary, *map(str, args)],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def json(self, *args):
        done = self.tunesmith(*args, "--json")
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, args))}: {done.returncode}\n{done.stderr}")
        return json.loads(done.stdout)

    def sync(self, url, store):
        return self.json("sync", "--phoenix-url", url, "--project", PROJECT, "--store", store)["sync"]

    def measured_sync(self, url, store):
        """The most memory that a sync has, in MiB. `getrusage` would count Python's own, before it starts the sync."""
        command = [self.binary, "sync", "--phoenix-url", url, "--project", PROJECT, "--store", store]
        running = subprocess.Popen(command, cwd=self.folder, env=self.environment, **QUIET)
        peak_kib = 0
        while running.poll() is None:
            status = Path(f"/proc/{running.pid}/status").read_text()
            peak_kib = max(
                [peak_kib, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))]
            )
            time.sleep(0.005)
        self.expect("the first sync: exit code", running.returncode, 0)
        return peak_kib / 1024

    def sync_while_seeding(self, url, store):
        seeding, n_syncs = start_seed(url), 0
        while seeding.poll() is None:
            # There is no project before its first span is stored.
            done = self.tunesmith("sync", "--phoenix-url", url, "--project", PROJECT, "--store", store)
            n_syncs += done.returncode == 0
            time.sleep(0.5)
        print(f"seeded {finished(seeding)} beside {n_syncs} syncs")
        self.expect("syncs while seeding", n_syncs > 0, True)

    def expect_sync(self, what, report, *, new_spans=0, new=0, updated=0, removed=0):
        """Nothing but these changed, and no span was read that the store had."""
        annotations, spans = report["annotations"], {"new": new_spans, "updated": 0, "unchanged": 0, "stale": 0}
        got = (report["spans"], annotations["new"], annotations["updated"], report["removed"], report["rejected"])
        self.expect(
            f"{what}: spans, annotations new, updated, removed, rejected", got, (spans, new, updated, removed, 0)
        )

    # What analyze and extract say, against the oracle.

    def compare(self, url, store):
        """The store's rows by number, and what `analyze` and `extract` make of them. Gives what the server has."""
        project = oracle.read(url, PROJECT)
        annotations = [*project.of_span.values(), *project.of_document.values()]
        rows = Counter(json.loads(line)[0] for line in dump(store))
        got, expected = (rows["span"], rows["annotation"]), (len(project.spans), sum(map(len, annotations)))
        self.expect("spans and annotations in the store", got, expected)
        for title, path in CONFIGS.items():
            config = oracle.load(path)
            for row in oracle.AGENTS:
                self.compare_one(title, path, row, store, oracle.analyze(project, config, *row))
        return got

    def compare_one(self, title, path, row, store, theirs):
        agent, model_type, modality = row
        args = ["--store", store, "--project", PROJECT, "--agent-type", agent, "--model-type", model_type]
        args += ["--modality", modality] if modality else []
        args += ["--config", path] if path else []
        ours = self.json("analyze", *args)
        name = " ".join(filter(None, row))
        print(f"\n{title}, {name}: {ours['spans']} spans")
        rows = {("spans", ours["spans"], theirs["spans"])}
        rows |= {(kind, n, theirs["examples"][kind]) for kind, n in ours["examples"].items()}
        reasons = ours["skipped"].keys() | theirs["skipped"].keys()
        rows |= {(reason, ours["skipped"].get(reason, 0), theirs["skipped"].get(reason, 0)) for reason in reasons}
        for what, our, their in sorted(rows):
            self.failures += our != their
            print(f"  {what:52} {our:6} {their:6}  {'' if our == their else 'FAIL'}")
        kinds = {"approved_examples": "approved", "preference_pairs": "pairs", "triplets": "triplets"}
        for kind, records in theirs["records"].items():
            if records:
                self.compare_records(kinds[kind], args, records)

    def compare_records(self, kind, args, theirs):
        """The texts, too: equal counts may hide another verdict."""
        output = self.folder / "records.jsonl"
        output.unlink(missing_ok=True)
        done = self.tunesmith(
            "extract", *args, "--kind", kind, "--formatter", "prompt-completion-formatter", "--output", output
        )
        if done.returncode != 0:
            sys.exit(f"extract {kind}: {done.returncode}\n{done.stderr}")
        ours = Counter(texts_of(json.loads(line)) for line in output.read_text().splitlines())
        theirs = Counter(theirs)
        for title, surplus in (("only ours", ours - theirs), ("only the oracle's", theirs - ours)):
            self.failures += bool(surplus)
            for texts in list(surplus)[:3]:
                print(f"  FAIL {kind}, {title} ({surplus.total()}): {texts}")
        print(f"  {kind} with equal texts: {(ours & theirs).total()}", flush=True)

    # What comes late.

    def late(self, url, store, seeded):
        later = finished(start_seed(url, "--later"))
        report = self.sync(url, store)
        n_spans, n_annotations = self.compare(url, store)
        self.expect("new spans", n_spans - seeded[0], later["spans"])
        self.expect_sync("new spans and late verdicts", report, new_spans=later["spans"], new=n_annotations - seeded[1])
        self.expect("a sync after that: unchanged", self.sync(url, store)["unchanged"], True)

        changes = Changes(url)
        for change, expected in changes.all():
            change()
            time.sleep(1.5)  # the server tells of changes a little after it has made them
            self.expect_sync(change.__doc__, self.sync(url, store), **expected)

    # Killed syncs.

    def killed(self, url, whole_s, uninterrupted):
        """Kills syncs at random moments; what was killed is followed by others until one finishes."""
        moments = random.Random(1)
        kills, stores, store = 0, 0, None
        expected = dump(uninterrupted)
        while kills < KILLS or store:
            if store is None:
                stores += 1
                store = self.folder / f"killed-{stores}.sqlite"
            command = [self.binary, "sync", "--phoenix-url", url, "--project", PROJECT, "--store", store]
            running = subprocess.Popen(command, cwd=self.folder, env=self.environment, **QUIET)
            try:
                running.wait(moments.uniform(0, whole_s) if kills < KILLS else 300)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
                kills += 1
                continue
            self.expect(
                f"store {stores} after {kills} kills equals the uninterrupted one's", dump(store) == expected, True
            )
            store = None

    def killed_while_the_store_is_made(self, url):
        """It takes some milliseconds, so many kills, each soon after the file is there."""
        moments, refused = random.Random(2), []
        for i in range(KILLS_AT_START):
            store = self.folder / f"early-{i}.sqlite"
            command = ["sync", "--phoenix-url", url, "--project", "default", "--store", store]
            running = subprocess.Popen([self.binary, *command], env=self.environment, **QUIET)
            while not store.exists() and running.poll() is None:
                pass
            time.sleep(moments.uniform(0, 0.01))
            running.kill()
            running.wait()
            done = self.tunesmith(*command)
            refused += [done.stderr.strip()] if done.returncode else []
        self.expect(f"stores that are refused, of {KILLS_AT_START} killed while they were made", len(refused), 0)
        for message in refused[:1]:
            print(f"     {message}")

    def two_at_once(self, url, uninterrupted):
        store = self.folder / "two.sqlite"
        command = [self.binary, "sync", "--phoenix-url", url, "--project", PROJECT, "--store", store]
        both = [subprocess.Popen(command, cwd=self.folder, env=self.environment, **QUIET) for _ in "ab"]
        self.expect("two syncs into one store: exit codes", [running.wait(300) for running in both], [0, 0])
        self.expect("two syncs give what one gives", sorted(dump(store)) == sorted(dump(uninterrupted)), True)

    def made_anew(self, url):
        """A project that is deleted and made again, with fewer spans and with more. On SQLite, Phoenix numbers the new
        spans as the old ones, and numbers are its cursors."""
        project, store, http = "anew", self.folder / "anew.sqlite", httpx.Client(base_url=url, timeout=60)
        for number, n_spans in enumerate([60, 20, 100]):
            if number > 0:
                http.delete(f"/v1/projects/{project}").raise_for_status()
            sent = finished(start_seed(url, "--spans", n_spans, "--seed", 10 + number, project=project))
            report = self.json("sync", "--phoenix-url", url, "--project", project, "--store", store)["sync"]
            self.expect(f"new spans of project number {number + 1} of a name", report["spans"]["new"], sent["spans"])

    # Keys.

    def keys(self, url):
        http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {server.ADMIN_SECRET}"}, timeout=60)
        key = http.post("/v1/system/api_keys", json={"data": {"name": "sync"}}).raise_for_status().json()["data"]["key"]
        finished(start_seed(url, "--spans", 60, "--key", key))
        files = {"right": key, "wrong": "not-a-key"}
        for name, text in files.items():
            (self.folder / name).write_text(f"{text}\n")
        ways = {
            "no key": ([], None, 1),
            "a wrong key": ([], "not-a-key", 1),
            "a wrong key in a file": (["--phoenix-api-key-file", self.folder / "wrong"], None, 1),
            "a right key": ([], key, 0),
            "a right key in a file": (["--phoenix-api-key-file", self.folder / "right"], None, 0),
            "a right key in a file beside a wrong one": (
                ["--phoenix-api-key-file", self.folder / "right"],
                "not-a-key",
                0,
            ),
        }
        for i, (way, (args, variable, code)) in enumerate(ways.items()):
            store = self.folder / f"keys-{i}.sqlite"
            done = self.tunesmith(
                "sync", "--phoenix-url", url, "--project", PROJECT, "--store", store, *args, key=variable
            )
            self.expect(f"{way}: exit code", done.returncode, code)
            told = done.stdout + done.stderr
            self.expect(f"{way}: a key is told", key in told or "not-a-key" in told, False)
            if code == 1:
                remedies = [remedy in done.stderr for remedy in ("PHOENIX_API_KEY", "--phoenix-api-key-file")]
                self.expect(f"{way}: remedies in the message", remedies, [True, True])
                print(f"     {done.stderr.strip()}")
            else:
                self.expect(
                    f"{way}: spans in the store", sum(line.startswith('["span"') for line in dump(store)) >= 60, True
                )


class Changes:
    """All ways by which annotations change, one at a time."""

    def __init__(self, url):
        self.http = httpx.Client(base_url=url, timeout=60)
        path = f"/v1/projects/{PROJECT}/spans"
        spans = self.http.get(path, params={"limit": 1000}).raise_for_status().json()["data"]
        self.span = spans[-1]
        self.searched = next(it for it in spans if "retrieval.documents.0.document.content" in it["attributes"])

    def all(self):
        return [
            (self.verdict, {"new": 1}),
            (self.other_verdict, {"updated": 1}),
            (self.queued_verdict, {"new": 1}),
            (self.document_verdict, {"new": 1}),
            (self.verdict_by_hand, {"new": 1}),
            (self.verdict_taken_back, {"removed": 1}),
            (self.note, {"new": 1}),
        ]

    def annotation(self, span, label="approved", **more):
        more = {"name": "second_look", "annotator_kind": "HUMAN", **more}
        return {"data": [{"span_id": span["context"]["span_id"], "result": {"label": label}, **more}]}

    def verdict(self):
        """a verdict"""
        self.post("/v1/span_annotations?sync=true", self.annotation(self.span))

    def other_verdict(self):
        """another one in its place"""
        self.post("/v1/span_annotations?sync=true", self.annotation(self.span, "rejected"))

    def queued_verdict(self):
        """one that the server has queued"""
        self.post("/v1/span_annotations", self.annotation(self.span, identifier="queued"))

    def document_verdict(self):
        """one of a document"""
        self.post("/v1/document_annotations?sync=true", self.annotation(self.searched, document_position=0))

    def verdict_by_hand(self):
        """one from the web page"""
        mutation = """mutation($it: [CreateSpanAnnotationInput!]!) {
            createSpanAnnotations(input: $it) { spanAnnotations { id } } }"""
        it = {"spanId": self.span["id"], "name": "by_hand", "annotatorKind": "HUMAN", "label": "good", "source": "APP"}
        self.post("/graphql", {"query": mutation, "variables": {"it": [it | {"metadata": {}}]}})

    def verdict_taken_back(self):
        """one that is taken back"""
        which = {"name": "by_hand", "delete_all": True}
        self.http.delete(f"/v1/projects/{PROJECT}/span_annotations", params=which).raise_for_status()

    def note(self):
        """a note"""
        self.post("/v1/span_notes", {"data": {"span_id": self.span["context"]["span_id"], "note": "look at this"}})

    def post(self, path, body):
        answer = self.http.post(path, json=body).raise_for_status().json()
        if "errors" in answer:
            sys.exit(f"{path}: {answer['errors']}")


def texts_of(record):
    """A record's texts without the instruction around them, and with single blanks."""
    if "anchor" in record:
        texts = [record["anchor"], record["positive"], record["negative"]]
    else:
        given = record["prompt"].partition("### Input:\n")[2].removesuffix("\n### Response:\n")
        sides = [record["completion"]] if "completion" in record else [record["chosen"], record["rejected"]]
        texts = [given, *sides]
    return tuple(" ".join(text.split()) for text in texts)


def dump(store):
    """Projects, spans and annotations as lines without row ids, annotations in the order that the store gives them."""
    with closing(sqlite3.connect(store)) as connection:
        tables = {
            "project": "SELECT name FROM projects ORDER BY name",
            "span": """SELECT p.name, span_id, trace_id, parent_id, s.name, kind, status, start_time_ns, end_time_ns,
                input_key, attributes FROM spans s JOIN projects p ON p.id = s.project ORDER BY p.name, span_id""",
            "annotation": """SELECT p.name, span_id, document, a.name, identifier, annotator_kind, label, score,
                explanation, metadata, created_at_ns, updated_at_ns FROM annotations a JOIN spans s ON s.id = a.span
                JOIN projects p ON p.id = s.project ORDER BY p.name, span_id, a.id""",
        }
        return [json.dumps([table, *row]) for table, query in tables.items() for row in connection.execute(query)]


def start_server(folder, *args):
    log = open(f"{folder}.log", "w")
    return subprocess.Popen(
        [sys.executable, HERE / "server.py", folder, *args], stdout=subprocess.PIPE, stderr=log, text=True
    )


def url_of(running):
    url = running.stdout.readline().strip()
    return url or sys.exit("the Phoenix server did not start; its log is beside its folder")


def start_seed(url, *args, project=PROJECT):
    command = [sys.executable, HERE / "seed.py", "--url", url, "--project", project, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finished(seeding):
    told, _ = seeding.communicate()
    return json.loads(told) if seeding.returncode == 0 else sys.exit("seeding failed")


def cpu_s(pid):
    """User and system time of a process; the name before may hold blanks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(check, phoenix, phoenix_with_auth):
    url, store, live = url_of(phoenix), check.folder / "telemetry.sqlite", check.folder / "live.sqlite"
    check.sync_while_seeding(url, live)

    start, cpu = time.monotonic(), cpu_s(phoenix.pid)
    peak_mib = check.measured_sync(url, store)
    whole_s, server_s = time.monotonic() - start, cpu_s(phoenix.pid) - cpu
    print(f"the first sync: {whole_s:.2f} s, {server_s:.2f} s of the server's processor, {peak_mib:.0f} MiB at most")
    seeded = check.compare(url, store)
    check.expect("second sync: unchanged", check.sync(url, store)["unchanged"], True)
    check.late(url, store, seeded)

    uninterrupted = check.folder / "uninterrupted.sqlite"
    check.sync(url, uninterrupted)
    check.sync(url, live)
    for name, other in {"many small syncs": store, "syncs while spans and verdicts arrived": live}.items():
        check.expect(f"{name} give what one gives", sorted(dump(other)) == sorted(dump(uninterrupted)), True)
    check.killed(url, whole_s, uninterrupted)
    check.killed_while_the_store_is_made(url)
    check.two_at_once(url, uninterrupted)
    check.made_anew(url)
    check.keys(url_of(phoenix_with_auth))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-phoenix-"))
    check = Check(os.path.abspath(sys.argv[1]), folder)
    servers = [start_server(folder / "phoenix"), start_server(folder / "phoenix-auth", "--auth")]
    try:
        run(check, *servers)
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
