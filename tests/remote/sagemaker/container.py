"""A training container as SageMaker starts it: the image's entry point with `train`, over `/opt/ml`. Really an OCI container."""
import os
import pathlib
import subprocess

# In a namespace of this test's, where the machine's own podman knows nothing of it; no cgroups, no network.
PODMAN = ["podman", "--root", os.environ["PODMAN_ROOT"], "--runroot", os.environ["PODMAN_ROOT"] + "-run",
          "--storage-driver", "vfs", "--cgroup-manager=cgroupfs"]


class Container:
    def __init__(self, name, image, folder, variables, log):
        self.name = name
        variables = [word for key, value in variables.items() for word in ("--env", f"{key}={value}")]
        self.process = subprocess.Popen(
            [*PODMAN, "run", "--rm", "--name", name, "--network=none", "--cgroups=disabled",
             "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "-v", f"{pathlib.Path(folder)}:/opt/ml",
             *variables, image, "train"],
            stdout=log, stderr=subprocess.STDOUT)

    def signal(self, signal):
        subprocess.run([*PODMAN, "kill", "--signal", signal, self.name], capture_output=True)

    def exit_code(self):
        """`None` while it runs."""
        return self.process.poll()
