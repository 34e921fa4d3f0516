#!/usr/bin/env python3
"""phoenix_sync.py BINARY [SPANS]: what reading a project of a real Phoenix server takes.

Run with a python that has tests/phoenix/requirements.txt. Seeds a server on loopback (10,000 spans), reads it into fresh stores
five times, and then once more into the last. Prints wall time, the server's processor time for it and the reader's peak memory.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/phoenix"))
import check as phoenix  # noqa: E402

RUNS = 5


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    binary, n_spans = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 10_000
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-phoenix-"))
    server = phoenix.start_server(folder / "phoenix")
    try:
        measure(phoenix.Check(binary, folder), server, n_spans)
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
    shutil.rmtree(folder)


def measure(check, server, n_spans):
    url = phoenix.url_of(server)
    print(f"seeded {phoenix.finished(phoenix.start_seed(url, '--spans', n_spans))}", flush=True)
    # A sync reads nothing twice, so the server's own work after an export has to be over first.
    settle(server.pid)
    print(f"load {os.getloadavg()[0]:.2f}")
    for run in range(RUNS):
        store = check.folder / f"{run}.sqlite"
        start, cpu = time.monotonic(), phoenix.cpu_s(server.pid)
        peak_mib = check.measured_sync(url, store)
        whole_s, server_s = time.monotonic() - start, phoenix.cpu_s(server.pid) - cpu
        print(f"{whole_s:.2f} s, {server_s:.2f} s of the server: {whole_s / server_s:.2f}; {peak_mib:.0f} MiB", flush=True)
    start, cpu = time.monotonic(), phoenix.cpu_s(server.pid)
    report = check.sync(url, store)
    whole_s, server_s = time.monotonic() - start, phoenix.cpu_s(server.pid) - cpu
    print(f"again: {whole_s:.2f} s, {server_s:.2f} s of the server; unchanged: {report['unchanged']}")


def settle(pid):
    idle = 0
    while idle < 3:
        before = phoenix.cpu_s(pid)
        time.sleep(1)
        idle = idle + 1 if phoenix.cpu_s(pid) - before < 0.1 else 0


if __name__ == "__main__":
    main()
