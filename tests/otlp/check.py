"""check.py BINARY: OpenTelemetry's exporter for Python against `BINARY serve --otlp`. See README.md."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from openinference.semconv.resource import ResourceAttributes
from openinference.semconv.trace import OpenInferenceSpanKindValues, SpanAttributes
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

AGENTS = ["weather_agent", "calendar_agent", "code_agent"]
APPROVED, CORRECTED, UNJUDGED = 60, 10, 5


class Server:
    """`tunesmith serve --otlp` in `folder`; always at the port that it had first."""

    def __init__(self, binary, folder):
        self.binary, self.folder, self.address = binary, folder, "127.0.0.1:0"
        self.start()

    def start(self):
        command = [self.binary, "serve", "--otlp", "--store", "t.sqlite", "--listen", self.address]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        # What a user would copy into a shell.
        lines = [self.process.stdout.readline() for _ in range(6)]
        exports = "".join(line for line in lines if line.strip().startswith("export "))
        shell = ["bash", "-c", f"set -eu\n{exports}\nenv"]
        environment = subprocess.run(shell, check=True, capture_output=True, text=True).stdout
        self.variables = dict(re.findall(r"^(OTEL_\w+)=(.*)$", environment, re.MULTILINE))
        self.address = self.variables["OTEL_EXPORTER_OTLP_ENDPOINT"].removeprefix("http://")
        self.token = (self.folder / "serve.token").read_text().strip()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        check("exit code after SIGTERM", code, 0)

    def annotate(self, feedback):
        request = urllib.request.Request(
            f"http://{self.address}/v1/annotations",
            data=json.dumps(feedback).encode(),
            headers={"authorization": f"Bearer {self.token}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def check(what, found, expected):
    print(f"{what}: {found}")
    if found != expected:
        sys.exit(f"{what}: expected {expected}, found {found}")


def tracer_provider(project, **exporter):
    provider = TracerProvider(resource=Resource({ResourceAttributes.PROJECT_NAME: project}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(**exporter)))
    return provider


def route(provider, index):
    """A span of a routing agent; returns its id."""
    agent = AGENTS[index % 3]
    attributes = {
        SpanAttributes.OPENINFERENCE_SPAN_KIND: OpenInferenceSpanKindValues.AGENT.value,
        SpanAttributes.INPUT_VALUE: f"query {index} for the {agent}",
        SpanAttributes.OUTPUT_VALUE: agent,
        SpanAttributes.SESSION_ID: f"session {index}",
        SpanAttributes.TAG_TAGS: ["check", agent],
        SpanAttributes.LLM_TOKEN_COUNT_TOTAL: 100 + index,
    }
    with provider.get_tracer("check").start_as_current_span("RoutingAgent.route", attributes=attributes) as span:
        if index == 0:
            with provider.get_tracer("check").start_as_current_span("tool"):
                pass
        return format(span.get_span_context().span_id, "016x")


def verdict(index, span_id):
    if index < APPROVED:
        return {"span_id": span_id, "label": "approved"}
    return {"span_id": span_id, "label": "rejected", "correction": AGENTS[(index + 1) % 3]}


def run(server, *command):
    done = subprocess.run([server.binary, *command], cwd=server.folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stderr}")
    return json.loads(done.stdout)


def spans_and_feedback(server):
    plain, compressed = tracer_provider("acme"), tracer_provider("acme", compression=Compression.Gzip)
    span_ids = [route(compressed if index % 2 else plain, index) for index in range(APPROVED + CORRECTED + UNJUDGED)]
    for provider in (plain, compressed):
        provider.force_flush()
        provider.shutdown()
    judged = [verdict(index, span_id) for index, span_id in enumerate(span_ids[: APPROVED + CORRECTED])]
    check("verdicts", len(server.annotate(judged[1:])), APPROVED + CORRECTED - 1)
    check("a verdict", server.annotate(judged[0]), {"project": "acme", "span_id": span_ids[0], "new": True})
    analysis = run(server, "analyze", "--agent-type", "routing", "--store", "t.sqlite", "--project", "acme", "--json")
    # 75 of the agent; 70 approved less 7 that would be held out, 10 pairs less 2: as `analyze` counts them imported.
    check("spans", analysis["spans"], 75)
    expected = {"approved_examples": 63, "preference_pairs": 8, "triplets": 0}
    check("examples", analysis["examples"], expected)


def wrong_token(server):
    class Kept(OTLPSpanExporter):
        results = []

        def export(self, spans):
            self.results.append(super().export(spans))
            return self.results[-1]

    provider = TracerProvider(resource=Resource({ResourceAttributes.PROJECT_NAME: "intruder"}))
    provider.add_span_processor(BatchSpanProcessor(Kept(headers={"authorization": "Bearer " + "x" * 43})))
    route(provider, 1)
    provider.force_flush()
    provider.shutdown()
    check("exports with a wrong token", Kept.results, [SpanExportResult.FAILURE])
    try:
        server.token, token = "x" * 43, server.token
        server.annotate({"span_id": "0" * 16, "label": "approved"})
        sys.exit("feedback with a wrong token was taken")
    except urllib.error.HTTPError as error:
        check("feedback with a wrong token", error.code, 401)
    finally:
        server.token = token


def killed(server):
    provider = tracer_provider("killed")
    span_ids = []

    def agent():
        for index in range(2000):
            span_ids.append(route(provider, index + 1))
            if index % 100 == 0:
                provider.force_flush()

    sending = threading.Thread(target=agent)
    sending.start()
    for _ in range(3):
        time.sleep(0.3)
        server.kill()
        server.start()
    sending.join()
    provider.force_flush()
    provider.shutdown()
    server.stop()
    with sqlite3.connect(server.folder / "t.sqlite") as store:
        of_project = "SELECT span_id FROM spans s JOIN projects p ON p.id = s.project WHERE p.name = ?"
        stored = {row[0] for row in store.execute(of_project, ["killed"])}
        check("spans of an exporter whose server was killed", len(stored & set(span_ids)), 2000)
        check("projects", [row[0] for row in store.execute("SELECT name FROM projects ORDER BY name")], ["acme", "killed"])


def main():
    binary = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        server = Server(binary, Path(folder))
        os.environ.update(server.variables)
        try:
            spans_and_feedback(server)
            wrong_token(server)
            killed(server)
        finally:
            server.process.kill()
            server.process.wait()
    print("ok")


if __name__ == "__main__":
    main()
