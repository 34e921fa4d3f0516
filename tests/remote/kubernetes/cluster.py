"""cluster.py BIN STATE TUNESMITH: a cluster of one node, until it is ended. STATE gets `ready`, `kubeconfig`, `remote.toml` and `ca.crt`."""
import pathlib
import re
import subprocess
import sys
import threading
import time

from api import NAMESPACE, SERVER, Api
from kubelet import IMAGE, Kubelet, serve_logs

BIN, STATE = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
RBAC = pathlib.Path(__file__).resolve().parents[3] / "deploy" / "kubernetes" / "rbac.yaml"
ETCD = "http://127.0.0.1:2379"
PROCESSES = {}


def openssl(*words):
    subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=STATE)


def certificates():
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key",
            "-out", "ca.crt")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=kubernetes", "-keyout", "server.key", "-out", "server.csr")
    (STATE / "names").write_text("subjectAltName=DNS:localhost,DNS:kubernetes,IP:127.0.0.1,IP:10.254.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "server.crt")
    openssl("genrsa", "-out", "accounts.key", "2048")


def kubeconfig(name, token):
    (STATE / name).write_text(f"""apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: "{SERVER}", certificate-authority: {STATE}/ca.crt}}}}]
users: [{{name: us, user: {{token: {token}}}}}]
contexts: [{{name: test, context: {{cluster: test, user: us, namespace: {NAMESPACE}}}}}]
current-context: test
""")


def start(name, *flags):
    log = open(STATE / f"{name}.log", "ab")
    PROCESSES[name] = subprocess.Popen([BIN / name, *flags], stdout=log, stderr=log)


def start_api_server():
    start("kube-apiserver", f"--etcd-servers={ETCD}", "--secure-port=6443", "--bind-address=0.0.0.0",
          "--advertise-address=10.254.0.1", "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/16",
          f"--tls-cert-file={STATE}/server.crt", f"--tls-private-key-file={STATE}/server.key",
          f"--token-auth-file={STATE}/tokens.csv", "--authorization-mode=RBAC", "--service-account-issuer=https://kubernetes",
          f"--service-account-key-file={STATE}/accounts.key", f"--service-account-signing-key-file={STATE}/accounts.key",
          "--kubelet-preferred-address-types=InternalIP", "--feature-gates=TTLAfterFinished=true")


def wait(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if value := condition():
                return value
        except (OSError, RuntimeError):
            pass
        time.sleep(0.1)
    logs = "".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in STATE.glob("*.log"))
    sys.exit(f"{what}: not within {seconds} s\n{logs}")


def apply(api, text):
    """Of the kinds that there are in the example: the server reads YAML itself."""
    for document in re.split(r"(?m)^---$", text):
        kind = re.search(r"(?m)^kind: (\w+)", document)
        if not kind:
            continue
        path = {
            "Namespace": "/api/v1/namespaces",
            "ServiceAccount": f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts",
            "Role": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles",
            "RoleBinding": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings",
        }[kind[1]]
        api.call("POST", path, document, "application/yaml")


def main():
    begun = time.monotonic()
    certificates()
    (STATE / "tokens.csv").write_text(
        'operator-token,operator,1,"system:masters"\ntunesmith-token,tunesmith,2\nnobody-token,nobody,3\n')
    for name, token in (("operator.kubeconfig", "operator-token"), ("kubeconfig", "tunesmith-token"),
                        ("nobody.kubeconfig", "nobody-token"), ("wrong.kubeconfig", "no-such-token")):
        kubeconfig(name, token)
    start("etcd", f"--data-dir={STATE}/etcd", f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}",
          "--listen-peer-urls=http://127.0.0.1:2380")
    start_api_server()
    api = Api(STATE)
    wait("the API server", lambda: api.call("GET", "/readyz") == "ok")
    operator = f"--kubeconfig={STATE}/operator.kubeconfig"
    start("kube-controller-manager", operator, f"--service-account-private-key-file={STATE}/accounts.key",
          f"--root-ca-file={STATE}/ca.crt", "--leader-elect=false", "--feature-gates=TTLAfterFinished=true", f"--cert-dir={STATE}/certificates")
    start("kube-scheduler", operator, "--leader-elect=false", f"--cert-dir={STATE}/certificates")

    apply(api, RBAC.read_text())
    store = STATE / "artefacts"
    store.mkdir()
    api.call("POST", "/api/v1/persistentvolumes", {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "artefacts"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "hostPath": {"path": str(store)},
                 "storageClassName": "by-hand"}})
    api.call("POST", f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims", {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "artefacts"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}},
                 "storageClassName": "by-hand", "volumeName": "artefacts"}})
    serve_logs(STATE)
    kubelet = Kubelet(STATE, sys.argv[3], cpu=2, memory_mib=4096, more={"nvidia.com/gpu": "1"})
    kubelet.register()
    threading.Thread(target=kubelet.run, daemon=True).start()
    claim = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/artefacts"
    wait("the claim", lambda: api.call("GET", claim)["status"].get("phase") == "Bound")
    account = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default"
    wait("the service account", lambda: (api.call("GET", account) or {}).get("secrets"))
    (STATE / "remote.toml").write_text(f"""[remote]
artefacts = "file://{store}"
[remote.kubernetes]
kubeconfig = "{STATE}/kubeconfig"
image = "{IMAGE}"
claim = "artefacts"
""")
    print(f"a cluster in {time.monotonic() - begun:.1f} s", flush=True)
    (STATE / "ready").touch()
    while True:
        time.sleep(0.1)
        if (STATE / "restart").exists():
            PROCESSES["kube-apiserver"].kill()
            PROCESSES["kube-apiserver"].wait()
            time.sleep(3)
            start_api_server()
            (STATE / "restart").unlink()
        if dead := [name for name, process in PROCESSES.items() if process.poll() is not None]:
            sys.exit(f"{dead} ended\n{(STATE / f'{dead[0]}.log').read_text()[-3000:]}")


main()
