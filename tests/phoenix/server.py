"""server.py FOLDER [--auth]: a Phoenix server on a free port of 127.0.0.1, its data in FOLDER, until it is killed.

Prints its URL once it answers. With --auth it wants a key, and ADMIN_SECRET is one that may make others.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request

ADMIN_SECRET = "loopback-admin-secret-of-the-sync-test-1"
READY_WITHIN_S = 180  # a busy machine takes a minute for the imports and the migrations


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--auth", action="store_true")
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    port = free_port()
    # Phoenix reads its environment when it is imported.
    os.environ.update(
        PHOENIX_WORKING_DIR=os.path.abspath(args.folder),
        PHOENIX_HOST="127.0.0.1",
        PHOENIX_PORT=str(port),
        PHOENIX_TELEMETRY_ENABLED="false",
        PHOENIX_ALLOW_EXTERNAL_RESOURCES="false",
        PHOENIX_ENABLE_MCP_SERVER="false",
        PHOENIX_DISABLE_AGENT_ASSISTANT="true",
        PHOENIX_AGENTS_DISABLE_WEB_ACCESS="true",
        PHOENIX_ALLOWED_SANDBOX_PROVIDERS="NONE",
        PHOENIX_LOG_MIGRATIONS="false",
    )
    if args.auth:
        os.environ.update(
            PHOENIX_ENABLE_AUTH="true",
            PHOENIX_SECRET="loopback-signing-secret-of-the-sync-test-1",
            PHOENIX_ADMIN_SECRET=ADMIN_SECRET,
        )
    url = f"http://127.0.0.1:{port}"
    # Standard output is for the URL alone; Phoenix prints a banner there.
    told, sys.stdout = sys.stdout, sys.stderr
    threading.Thread(target=tell_when_ready, args=(url, told), daemon=True).start()
    serve()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tell_when_ready(url, told):
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    print(url, file=told, flush=True)
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    print(f"no answer from {url} within {READY_WITHIN_S} s", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)


def serve():
    from phoenix.server.grpc_server import GrpcServer
    from phoenix.server.main import main as phoenix

    # Its gRPC listener would be on every interface, whatever PHOENIX_HOST says; OTLP comes over HTTP here.
    async def no_listener(_self):
        await asyncio.sleep(0)

    GrpcServer.__aenter__ = no_listener
    sys.argv = ["phoenix", "serve"]
    phoenix()


if __name__ == "__main__":
    main()
