"""load.py BINARY: spans at a rate into `BINARY serve --otlp`, and what the server takes for it. See ../README.md.

Some clients send batches of spans of an OpenInference agent (about 2 KB each, every one with its own ids and input) over kept
connections, paced to the rate together; a batch that is not acknowledged is sent again, as exporters do. With --kills the server
is killed that often, at random moments, and started again. At the end every acknowledged span has to be in the store.
Needs opentelemetry-proto (tests/otlp/requirements.txt has it).
"""

import argparse
import gzip
import http.client
import json
import os
import random
import re
import sqlite3
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TICKS = os.sysconf("SC_CLK_TCK")
WORDS = "route the query to an agent that knows weather calendar code invoices travel and nothing else please".split()


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=os.path.abspath)
    parser.add_argument("--rate", type=int, default=5000, help="spans a second, by all clients together; 0: as fast as they can")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--batch", type=int, default=250, help="spans of a request (an exporter's default is 512)")
    parser.add_argument("--gzip", action="store_true")
    parser.add_argument("--kills", type=int, default=0)
    return parser.parse_args()


class Server:
    def __init__(self, binary, folder):
        self.binary, self.folder, self.address = binary, folder, "127.0.0.1:0"
        self.peak_kib, self.cpu_s = 0, 0.0
        self.start()

    def start(self):
        command = [self.binary, "serve", "--otlp", "--json", "--listen", self.address, "--store", "t.sqlite"]
        log = open(self.folder / "log", "a")
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=log, text=True)
        self.address = json.loads(self.process.stdout.readline())["listening"]
        self.token = (self.folder / "serve.token").read_text().strip()

    def measure(self):
        """Before its end: what it took until now."""
        process = Path(f"/proc/{self.process.pid}")
        fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
        self.cpu_s += (int(fields[11]) + int(fields[12])) / TICKS
        self.peak_kib = max(self.peak_kib, int(re.search(r"VmHWM:\s+(\d+)", (process / "status").read_text())[1]))

    def end(self, kill):
        self.measure()
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        self.process.wait()


class Template:
    """A request whose ids and inputs are made new in place."""

    def __init__(self, n, rng):
        request = ExportTraceServiceRequest()
        spans = request.resource_spans.add().scope_spans.add().spans
        for _ in range(n):
            spans.append(agent_span(rng))
        self.bytes = bytearray(request.SerializeToString())
        self.spans = [m.start() for m in re.finditer(b"S" * 8, self.bytes)]
        self.traces = [m.start() for m in re.finditer(b"T" * 16, self.bytes)]
        self.inputs = [m.start() for m in re.finditer(b"I" * 16, self.bytes)]
        assert len(self.spans) == len(self.traces) == len(self.inputs) == n

    def fill(self, ids):
        for span, trace, text, number in zip(self.spans, self.traces, self.inputs, ids):
            self.bytes[span : span + 8] = number.to_bytes(8, "big")
            self.bytes[trace : trace + 16] = number.to_bytes(16, "little")
            self.bytes[text : text + 16] = b"%016x" % number
        return bytes(self.bytes)


def agent_span(rng):
    def text(length):
        words = []
        while sum(map(len, words)) + len(words) < length:
            words.append(rng.choice(WORDS))
        return " ".join(words)[:length]

    attributes = {
        "openinference.span.kind": "AGENT",
        "session.id": "%032x" % rng.getrandbits(128),
        "user.id": "user-%06d" % rng.randrange(10**6),
        "input.value": "I" * 16 + " " + text(400),
        "input.mime_type": "text/plain",
        "output.value": text(200),
        "output.mime_type": "text/plain",
        "llm.model_name": "SmolLM2-135M-Instruct",
        "llm.invocation_parameters": json.dumps({"temperature": 0.2, "max_tokens": 64, "top_p": 0.9}),
        "llm.input_messages.0.message.role": "system",
        "llm.input_messages.0.message.content": text(300),
        "llm.input_messages.1.message.role": "user",
        "llm.input_messages.1.message.content": text(300),
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": text(150),
        "llm.token_count.prompt": rng.randrange(1000),
        "llm.token_count.completion": rng.randrange(100),
        "llm.token_count.total": rng.randrange(1100),
        "metadata": json.dumps({"attempt": 1, "region": "eu", "version": "2.4.1"}),
        "confidence": rng.random(),
    }
    now = time.time_ns()
    span = Span(trace_id=b"T" * 16, span_id=b"S" * 8, name="RoutingAgent.route", kind=Span.SPAN_KIND_INTERNAL)
    span.start_time_unix_nano, span.end_time_unix_nano = now - 10**9, now
    span.status.code = 1
    for key, value in attributes.items():
        kind = {str: "string_value", int: "int_value", float: "double_value"}[type(value)]
        span.attributes.append(KeyValue(key=key, value=AnyValue(**{kind: value})))
    return span


class Load:
    def __init__(self, args, server):
        self.args, self.server = args, server
        self.lock, self.began = threading.Lock(), time.monotonic()
        self.batches, self.acknowledged, self.again = 0, [], 0
        self.latencies, self.span_bytes = [], 0

    def next_batch(self):
        """The first id of the next batch, when it is due; None at the end."""
        with self.lock:
            due = self.began + (self.batches * self.args.batch / self.args.rate if self.args.rate else 0)
            if max(due, time.monotonic()) - self.began >= self.args.seconds:
                return None
            self.batches += 1
            first = self.batches * self.args.batch
        time.sleep(max(0.0, due - time.monotonic()))
        return first

    def client(self, seed):
        rng = random.Random(seed)
        templates = [Template(self.args.batch, rng) for _ in range(8)]
        self.span_bytes = len(templates[0].bytes) / self.args.batch
        headers = {"content-type": "application/x-protobuf", "authorization": f"Bearer {self.server.token}"}
        if self.args.gzip:
            headers["content-encoding"] = "gzip"
        connection = None
        while (first := self.next_batch()) is not None:
            # Span ids are random: a bijection of 64 bits.
            ids = [number * 0x9E3779B97F4A7C15 % 2**64 for number in range(first, first + self.args.batch)]
            body = rng.choice(templates).fill(ids)
            body = gzip.compress(body, 6) if self.args.gzip else body
            start = time.monotonic()
            while True:
                try:
                    connection = connection or http.client.HTTPConnection(self.server.address, timeout=60)
                    connection.request("POST", "/v1/traces", body, headers)
                    answer = connection.getresponse()
                    if answer.read() == b"" and answer.status == 200:
                        break
                except (OSError, http.client.HTTPException):
                    connection = None
                self.again += 1
                time.sleep(0.05)
            self.latencies.append(time.monotonic() - start)
            self.acknowledged.append(ids)


def main():
    args = parsed()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args.binary, Path(folder))
        load = Load(args, server)
        clients = [threading.Thread(target=load.client, args=(seed,)) for seed in range(args.clients)]
        for client in clients:
            client.start()
        moments = sorted(random.uniform(0.05, 0.95) * args.seconds for _ in range(args.kills))
        for moment in moments:
            time.sleep(max(0.0, load.began + moment - time.monotonic()))
            server.end(kill=True)
            server.start()
        for client in clients:
            client.join()
        took = time.monotonic() - load.began
        server.end(kill=False)
        with sqlite3.connect(Path(folder) / "t.sqlite") as store:
            stored = {row[0] for row in store.execute("SELECT span_id FROM spans")}
            whole = store.execute("PRAGMA quick_check").fetchone()[0]
        acknowledged = [format(number, "016x") for ids in load.acknowledged for number in ids]
        lost = sum(span_id not in stored for span_id in acknowledged)
        latencies = sorted(load.latencies)
        n = len(acknowledged)
        report = {
            "spans acknowledged": n,
            "spans a second": round(n / took),
            "bytes of a span": round(load.span_bytes),
            "seconds": round(took, 1),
            "kills": args.kills,
            "requests sent again": load.again,
            "acknowledged and lost": lost,
            "quick_check": whole,
            "server cpu s": round(server.cpu_s, 1),
            "server cpu us a span": round(server.cpu_s / n * 1e6),
            "server peak MiB": server.peak_kib // 1024,
            "latency ms p50 p99 max": [round(latencies[int(q * (len(latencies) - 1))] * 1e3) for q in (0.5, 0.99, 1)],
            "store MiB": (Path(folder) / "t.sqlite").stat().st_size >> 20,
            "load average": os.getloadavg()[0],
        }
        print(json.dumps(report, indent=1))
        raise SystemExit(lost > 0 or whole != "ok")


if __name__ == "__main__":
    main()
