#!/usr/bin/env python3
"""Prints the attempts whose trainers run on this machine, one a line; with --kill, ends them as a machine's failure would."""
import contextlib
import os
import pathlib
import signal
import sys


def trainers():
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended in between
        if "train" in words and "--attempt" in words:
            out, number = words[words.index("--out") + 1], words[words.index("--attempt") + 1]
            yield int(entry.name), f"{pathlib.Path(out).parent.name}-{number}"


for pid, attempt in list(trainers()):
    if "--kill" not in sys.argv:
        print(attempt)
        continue
    with contextlib.suppress(ProcessLookupError):  # it ended with another
        os.kill(pid, signal.SIGKILL)
