"""A node without containers: what the scheduler gives it runs as processes of this machine, over a copy of its file system that
takes no writes home. It keeps to what a kubelet does as far as the API shows: phases, exit codes, grace, deadlines, logs."""
import base64
import datetime
import http.server
import os
import pathlib
import shlex
import signal
import ssl
import subprocess
import threading
import time
import traceback
import urllib.parse

from api import Api

NODE, ADDRESS, PORT = "node-1", "127.0.0.1", 10250
IMAGE = "tunesmith:test"
TICK = 0.1


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Kubelet:
    """`program` is what the image has in its path."""

    def __init__(self, state, program, cpu, memory_mib, more):
        self.api, self.state, self.program, self.pods = Api(state), pathlib.Path(state), program, {}
        for folder in ("pids", "logs", "pods"):
            (self.state / folder).mkdir(exist_ok=True)
        self.resources = {"cpu": str(cpu), "memory": f"{memory_mib}Mi", "pods": "10", **more}

    def register(self):
        labels = {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"}
        self.api.call("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}})
        self.beat()

    def beat(self):
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready",
                 "lastHeartbeatTime": now(), "lastTransitionTime": now()}
        self.api.merge(f"/api/v1/nodes/{NODE}/status", {"status": {
            "capacity": self.resources, "allocatable": self.resources, "conditions": [ready],
            "addresses": [{"type": "InternalIP", "address": ADDRESS}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
        }})

    def run(self):
        beaten = time.monotonic()
        while True:
            try:
                if time.monotonic() > beaten + 10:
                    self.beat()
                    beaten = time.monotonic()
                for pod in self.api.list(f"/api/v1/pods?fieldSelector=spec.nodeName%3D{NODE}"):
                    uid = pod["metadata"]["uid"]
                    if uid not in self.pods:
                        self.pods[uid] = Pod(self, pod)
                        self.pods[uid].start()
                    self.pods[uid].deleted |= "deletionTimestamp" in pod["metadata"]
            except OSError as error:  # the API server restarts: the pods go on
                print(f"kubelet: {error}", flush=True)
            time.sleep(TICK)


class Pod(threading.Thread):
    def __init__(self, kubelet, pod):
        super().__init__(daemon=True)
        self.kubelet, self.pod, self.deleted = kubelet, pod, False
        self.name, self.namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        self.container = pod["spec"]["containers"][0]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.log = kubelet.state / "logs" / self.name
        self.started = now()

    def tell(self, phase, state, **more):
        status = {"name": self.container["name"], "image": self.container["image"], "imageID": "", "restartCount": 0,
                  "ready": phase == "Running", "started": phase == "Running", "state": state, "lastState": {}}
        for _ in range(100):
            try:
                return self.kubelet.api.merge(
                    self.path + "/status",
                    {"status": {"phase": phase, "startTime": self.started, "containerStatuses": [status], **more}})
            except Exception:  # until the API server is back
                time.sleep(0.3)

    def run(self):
        try:
            if self.pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                return
            if self.container["image"] != IMAGE:
                self.wait_for_image()
            else:
                self.attend()
        except Exception:
            traceback.print_exc()

    def wait_for_image(self):
        image = self.container["image"]
        self.tell("Pending", {"waiting": {"reason": "ErrImagePull", "message": f"pull access denied for {image}"}})
        time.sleep(1)
        self.tell("Pending", {"waiting": {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}})
        while not self.deleted:
            time.sleep(TICK)
        self.remove()

    def attend(self):
        process = self.execute()
        pid = self.kubelet.state / "pids" / self.name
        pid.write_text(str(process.pid))
        self.tell("Running", {"running": {"startedAt": now()}})
        begun, asked, why = time.monotonic(), None, {}
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        grace = self.pod["spec"].get("terminationGracePeriodSeconds", 30)
        while process.poll() is None:
            late = deadline is not None and time.monotonic() > begun + deadline
            if asked is None and (self.deleted or late):
                asked = time.monotonic()
                why = {"reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the specified deadline"} if late else {}
                process.send_signal(signal.SIGTERM)
            if asked is not None and time.monotonic() > asked + grace:
                process.kill()
            time.sleep(TICK)
        pid.unlink(missing_ok=True)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        oom = self.kubelet.state / "out-of-memory"
        reason = "Completed" if code == 0 else "OOMKilled" if oom.exists() else "Error"
        terminated = {"exitCode": code, "reason": reason, "startedAt": self.started, "finishedAt": now()}
        self.tell("Succeeded" if code == 0 and not why else "Failed", {"terminated": terminated}, **why)
        while not self.deleted:
            time.sleep(TICK)
        self.remove()

    def remove(self):
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        self.kubelet.api.call("DELETE", self.path, body)

    def environment(self):
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root", "HOSTNAME": self.name}
        for source in self.container.get("envFrom", []):
            name = source["secretRef"]["name"]
            secret = self.kubelet.api.call("GET", f"/api/v1/namespaces/{self.namespace}/secrets/{name}")
            variables |= {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
        return variables | {pair["name"]: pair.get("value", "") for pair in self.container.get("env", [])}

    def volume(self, volume):
        """The folder of this machine that it is."""
        if claim := volume.get("persistentVolumeClaim"):
            api = self.kubelet.api
            bound = api.call("GET", f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims/{claim['claimName']}")
            volume = api.call("GET", f"/api/v1/persistentvolumes/{bound['spec']['volumeName']}")
            return volume["spec"]["hostPath"]["path"]
        folder = self.kubelet.state / "pods" / self.name / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def execute(self):
        own = self.kubelet.state / "pods" / self.name
        root = own / "root"
        for folder in (root, own / "upper", own / "work"):
            folder.mkdir(parents=True, exist_ok=True)
        image = own / "upper" / "usr" / "local" / "bin"
        image.mkdir(parents=True)
        (image / "tunesmith").symlink_to(self.kubelet.program)
        volumes = {volume["name"]: self.volume(volume) for volume in self.pod["spec"].get("volumes", [])}
        q = shlex.quote
        script = [
            "set -e",
            f"mount -t overlay overlay -o lowerdir=/,upperdir={q(str(own / 'upper'))},workdir={q(str(own / 'work'))} {q(str(root))}",
            *(f"mount --rbind {place} {q(str(root))}{place}" for place in ("/proc", "/dev", "/sys")),
        ]
        # An outer folder is mounted before what lies in it.
        for mount in sorted(self.container.get("volumeMounts", []), key=lambda mount: mount["mountPath"]):
            source = os.path.join(volumes[mount["name"]], mount.get("subPath", ""))
            target = f"{root}{mount['mountPath']}"
            script += [f"mkdir -p {q(source)} {q(target)}", f"mount --bind {q(source)} {q(target)}"]
        command = self.container.get("command", []) + self.container.get("args", [])
        folder = self.container.get("workingDir", "/")
        inner = f'cd {q(folder)} && exec "$@"'
        script.append(f"exec /usr/sbin/chroot {q(str(root))} sh -c {q(inner)} sh {shlex.join(command)}")
        return subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "bash", "-c", "\n".join(script)], env=self.environment(),
            stdin=subprocess.DEVNULL, stdout=open(self.log, "wb"), stderr=subprocess.STDOUT, start_new_session=True)


def serve_logs(state):
    """What the API server asks a kubelet for: /containerLogs/NAMESPACE/POD/CONTAINER."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urllib.parse.urlsplit(self.path).path.split("/")
            file = pathlib.Path(state, "logs", parts[3]) if len(parts) == 5 and parts[1] == "containerLogs" else None
            if file is None or not file.exists():
                return self.send_error(404)
            text = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer((ADDRESS, PORT), Handler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{state}/server.crt", f"{state}/server.key")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
