"""check.py BINARY: the scenario, and what only Slurm can show, beside a cluster that cluster.sh has made."""
import os
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from engine_check import EngineCheck, kill, processes  # noqa: E402
from scenario import run  # noqa: E402

CLUSTER = pathlib.Path(os.environ["CLUSTER"])
ACTIVE = "squeue --noheader --format=%j --states=PENDING,CONFIGURING,RUNNING,COMPLETING"
SHARED = f'[remote]\nartefacts = "file://{CLUSTER}/shared"\n'
EPOCHS = 6


def slurm(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def fragment(table='partition = "both"\n', remote=""):
    return f'{SHARED}{remote}[remote.slurm]\n{table}'


def script(name, text):
    """A program of that name, in a folder that comes first in the PATH."""
    folder = CLUSTER / "programs"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def forget(check):
    """Neither host nor Slurm knows any job: a name that Slurm still knows is the job that had it."""
    check.forget()
    check.wait("oblivion", lambda: not slurm("squeue", "--noheader", "--states=all", "--format=%j").strip(), 120)


def refusals(check):
    check.fails("a GPU that nobody has", "--gpu", "h100",
                says=["slurm can't run such a job: allocation failure: Requested node configuration is not available"])
    check.remote(fragment('partition = "short"\n'))
    check.fails("longer than its partition allows", says=["can't be scheduled", "PartitionTimeLimit"])
    check.remote(fragment('partition = "moon"\n'))
    check.fails("a partition that is not there", says=["invalid partition specified: moon"])
    check.remote('[remote]\nartefacts = "s3://bucket/prefix"\n')
    check.fails("an artefact store that is no folder", says=["`remote.artefacts`", "file:///shared/tunesmith"])
    check.remote(fragment())
    nowhere = CLUSTER / "nowhere"
    nowhere.mkdir(exist_ok=True)
    check.fails("no sbatch", says=["cannot run `sinfo`", "remote.slurm.ssh"], environment={"PATH": str(nowhere)})
    other = CLUSTER / "other.conf"
    other.write_text((CLUSTER / "slurm.conf").read_text().replace("munge.sock", "nobody.sock"))
    check.fails("credentials that nobody vouches for", says=["slurm refuses the credentials"],
                environment={"SLURM_CONF": str(other)})


def lost_answer(check, local):
    """sbatch submits, and its answer is lost: the job is found, and not handed in a second time."""
    mark = CLUSTER / "lost-once"
    path = script("sbatch", f"""case "$*" in *--test-only*) exec /usr/bin/sbatch "$@";; esac
/usr/bin/sbatch "$@" >>{CLUSTER}/submitted || exit 1
[ -e {mark} ] || {{ touch {mark}; echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1; }}
tail -n 1 {CLUSTER}/submitted
""")
    before = os.environ["PATH"]
    os.environ.update(path)
    report, _ = check.finetune(2)
    os.environ["PATH"] = before
    check.check("a lost answer: one job was submitted", len((CLUSTER / "submitted").read_text().split()) == 1)
    check.check("a lost answer: and it happened", mark.exists())
    check.same_bytes("a lost answer", local, report)


def forgotten(check, local):
    """The job ends while nobody attends it, and Slurm forgets it: what it left tells."""
    forget(check)
    running = check.start(2)
    check.wait("a job that is handed in", lambda: check.active())
    running.send_signal(signal.SIGKILL)
    running.wait()
    check.wait("its end", lambda: not check.active())
    name = check.jobs()[0]["key"]
    check.wait("oblivion", lambda: name not in slurm("squeue", "--noheader", "--states=all", "--format=%j"), 120)
    report, _ = check.finetune(2)
    check.check("a forgotten job: its first attempt counts", report["job"]["attempts"] == 1 and len(check.jobs()[0]["attempts"]) == 1)
    check.same_bytes("a forgotten job", local, report)


def controller_restarts(check, local):
    forget(check)
    running = check.start(EPOCHS)
    check.wait_for_step(check.key(), 8)
    pid = int((CLUSTER / "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    check.wait("an end of the controller", lambda: not pathlib.Path(f"/proc/{pid}").exists())
    time.sleep(3)
    slurm("slurmctld")
    report = check.ends_well(running)
    check.check("a new controller: the attempt went on", len(check.jobs()[0]["attempts"]) == 1)
    check.same_bytes("a new controller", local, report)


def node_lost(check, local):
    """Everything on the second node is gone at once; the next attempt goes on from the checkpoint, on the first."""
    forget(check)
    slurm("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
    running = check.start(EPOCHS)
    check.wait_for_step(check.key(), 12)
    slurm("scontrol", "update", "nodename=n1", "state=resume")
    kill(processes(True))
    check.without_its_node(running, local, "NODE_FAIL")  # Slurm waits 8 s before it believes it
    subprocess.run(["nsenter", "-t", os.environ["NODE2"], "-n", "-u", "slurmd", "-N", "n2"], check=True)
    check.wait("the node", lambda: slurm("sinfo", "--noheader", "--partition=second", "--format=%t").strip() == "idle")


def by_ssh(check, local):
    """The programs on a login node: a real sshd, which lets a key of its own in."""
    folder = CLUSTER / "ssh"
    folder.mkdir()
    folder.chmod(0o700)
    for name in ("host", "key", "stranger"):
        slurm("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    (folder / "authorized").write_text((folder / "key.pub").read_text())
    (folder / "sshd").write_text(
        f"Port 2222\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nPidFile none\n"
        f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nSetEnv SLURM_CONF={CLUSTER}/slurm.conf\n")
    os.makedirs("/run/sshd", exist_ok=True)
    sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", str(folder / "sshd")])
    host = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:2222 {host[0]} {host[1]}\n")

    def by(key):
        args = ["-F", "none", "-p", "2222", "-i", str(folder / key), "-o", f"UserKnownHostsFile={folder}/known"]
        return fragment(f'ssh = "root@127.0.0.1"\nssh_args = {args}\n'.replace("'", '"'))

    forget(check)
    check.remote(by("key"))
    environment = dict(os.environ)
    del os.environ["SLURM_CONF"]
    report, _ = check.run("finetune", "--epochs", "2")
    os.environ.update(environment)
    check.check("by ssh: it says so", report["job"]["engine"] == "slurm by root@127.0.0.1")
    check.same_bytes("by ssh", local, report)
    check.remote(by("stranger"))
    check.fails("a key that the login node doesn't know",
                says=["slurm by root@127.0.0.1 refuses the credentials: Permission denied (publickey"])
    sshd.terminate()
    sshd.wait()
    check.remote(fragment())


def own(check):
    refusals(check)
    short, _ = check.finetune(2, remote=False)
    lost_answer(check, short)
    forgotten(check, short)
    by_ssh(check, short)
    check.two_ranks(short, fragment(remote="nodes = 2\n"))
    long, _ = check.finetune(EPOCHS, remote=False)
    controller_restarts(check, long)
    node_lost(check, long)


if __name__ == "__main__":
    run(lambda: EngineCheck(sys.argv[1], "slurm", fragment(), ACTIVE), EngineCheck.play, own)
