"""A real SLURM cluster of one node on this machine, as root and without systemd: up in seconds, stopped by its pid files.

Its files lie in /etc/slurm, where the daemons and Snakemake's jobs look (its executor takes SLURM_CONF from their environment);
what stood there is put back. A plain file serves as the node's only GPU, which is all that scheduling needs.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from filelock import FileLock, Timeout

ETC = Path("/etc/slurm")
LOCK = Path("/run/one-node-slurm-of-vixml-tests.lock")
BEFORE = "etc-slurm-before"
NAME = "one-of-vixml-tests"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")


def missing() -> str | None:
    """Return why no cluster can be started here, or None."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install -y --no-install-recommends slurm-wlm munge"
    if os.geteuid() != 0:
        return "a cluster of one's own needs root"
    return None


def memory() -> int:
    """Return the memory of the node in MB."""
    shown = subprocess.run(["slurmd", "-C"], check=True, capture_output=True, text=True).stdout
    return int(re.search(r"RealMemory=(\d+)", shown)[1])


def remove_left_behind() -> None:
    """Remove the configuration of a cluster whose tests were killed: with it, every Snakemake asks in vain for nine seconds."""
    try:
        with FileLock(LOCK, timeout=0):
            if NAME in (ETC / "slurm.conf").read_text(encoding="utf-8"):
                shutil.rmtree(ETC)
    except (Timeout, OSError):
        pass  # it runs, or there is none, or it is not ours to remove


def start(folder: Path) -> None:
    """Start a cluster whose state lies in ``folder``, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if ETC.exists():
        shutil.copytree(ETC, folder / BEFORE)
    try:
        _configure(folder)
        key, sock = folder / "munge.key", folder / "munge.socket"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        munge = f"--key-file={key} --socket={sock} --pid-file={folder}/munged.pid --log-file={folder}/munged.log"
        munge += f" --seed-file={folder}/munged.seed"
        _run("munged", "--force", *munge.split())
        _run("slurmctld", "-i", "-c")
        _run("slurmd", "-N", _host())
        _wait_until_idle(folder)
    except BaseException:
        stop(folder)
        raise


def stop(folder: Path) -> None:
    """Stop it, from whichever process; what stood in /etc/slurm is put back."""
    subprocess.run(["scancel", "--user=root"], check=False, capture_output=True)
    for daemon in ("slurmd", "slurmctld", "munged"):
        _stop(folder / f"{daemon}.pid")
    shutil.rmtree(ETC, ignore_errors=True)
    if (folder / BEFORE).exists():
        shutil.copytree(folder / BEFORE, ETC)


def _configure(folder: Path) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "gpu0").touch()
    topology = subprocess.run(["slurmd", "-C"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    topology = re.sub(r"NodeName=\S+", f"NodeName={_host()}", topology)
    ETC.mkdir(parents=True, exist_ok=True)
    (ETC / "slurm.conf").write_text(
        f"""\
ClusterName={NAME}
SlurmctldHost={_host()}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
SlurmUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MinJobAge=3600
MailProg=/bin/true
GresTypes=gpu
MaxArraySize=100
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2
KillWait=5
{topology} Gres=gpu:1 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes={_host()} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={_host()} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
""",
        encoding="utf-8",
    )
    (ETC / "gres.conf").write_text(f"Name=gpu File={folder}/gpu0\n", encoding="utf-8")
    (ETC / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


def _wait_until_idle(folder: Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        shown = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout.strip()
        if shown == "idle":
            return
        time.sleep(0.2)
    logs = "\n".join(path.read_text(encoding="utf-8")[-2000:] for path in sorted(folder.glob("*.log")))
    raise AssertionError(f"the node did not come up: {shown!r}\n{logs}")


def _stop(pid_file: Path) -> None:
    try:
        pid = int(pid_file.read_text(encoding="utf-8"))
        os.kill(pid, signal.SIGTERM)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
