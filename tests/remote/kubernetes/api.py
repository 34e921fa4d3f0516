"""The API server, as its clients see it: JSON over HTTPS with a token."""
import json
import pathlib
import ssl
import urllib.error
import urllib.request

SERVER = "https://127.0.0.1:6443"
NAMESPACE = "training"


class Api:
    def __init__(self, state, token="operator-token"):
        self.token = token
        self.tls = ssl.create_default_context(cafile=pathlib.Path(state) / "ca.crt")

    def call(self, method, path, body=None, kind="application/json"):
        """The answer; None where there is no such thing."""
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(SERVER + path, data, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        request.add_header("Content-Type", kind)
        request.add_header("Accept", "application/json")
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=20) as answer:
                text = answer.read()
                return json.loads(text) if text.startswith(b"{") else text.decode()
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            if error.code == 404:
                return None
            raise RuntimeError(f"{method} {path}: {error.code} {text}") from None

    def list(self, path):
        return self.call("GET", path)["items"]

    def merge(self, path, patch):
        return self.call("PATCH", path, patch, "application/merge-patch+json")

    def jobs(self):
        return self.list(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs")

    def pods(self):
        return self.list(f"/api/v1/namespaces/{NAMESPACE}/pods")
