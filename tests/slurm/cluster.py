"""A SLURM cluster of two nodes on this machine, as root, with everything under one folder.

python tests/slurm/cluster.py start /tmp/cluster   prints the line that makes a shell use it
python tests/slurm/cluster.py stop /tmp/cluster

Tests use it as a fixture. Nothing outside the folder is written, and other clusters on the machine are not affected.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")

# There are no cgroups. SLURM sends USR2 before a preemption (preempt_send_user_signal). A requeued job waits until its
# old credential expires, which is after two minutes by default (cred_expire).
CONF = """\
ClusterName=ersparse
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=5
SlurmdTimeout=10
SchedulerParameters=bf_interval=1,sched_min_interval=100000
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=30 MaxTime=60
PartitionName=urgent Nodes=ALL PriorityTier=10 MaxTime=60
"""


def can_run() -> bool:
    return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


class Cluster:
    """A cluster that runs during a `with` block, at the end of which all its jobs are killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> "Cluster":
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        conf = CONF.format(folder=self.folder, host=socket.gethostname().split(".")[0], ports=free_ports(3))
        (self.folder / "slurm.conf").write_text(conf)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        places = [
            f"--{what}={self.folder}/munge.{what.split('-')[0]}" for what in ("pid-file", "log-file", "seed-file")
        ]
        # --force: munged refuses parent folders with unusual permissions otherwise
        self.run("munged", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket", *places)
        self.run("slurmctld")
        for node in NODES:
            self.start_node(node)
        self.wait_for(lambda: self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split() == ["idle", "idle"])

    def __exit__(self, *_: object) -> None:
        with suppress(subprocess.SubprocessError):
            self.run("scancel", "-u", "root", "--signal=KILL", timeout=5)
        for node in NODES:
            self.kill_node(node)
        for name in ("slurmctld", "munge"):
            self._kill(name)

    def start_node(self, node: str) -> None:
        self.run("slurmd", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill the daemon of a node and all processes that it started, as a power failure does."""
        self._kill(f"slurmd.{node}")
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment = (process / "environ").read_bytes().split(b"\0")
                command = (process / "cmdline").read_bytes()
                ours = f"SLURM_CONF={self.folder}/slurm.conf".encode() in environment
                if ours and (f"SLURMD_NODENAME={node}".encode() in environment or b"slurmstepd" in command):
                    os.kill(int(process.name), signal.SIGKILL)

    def _kill(self, name: str) -> None:
        with suppress(OSError, ValueError):
            os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGKILL)
        (self.folder / f"{name}.pid").unlink(missing_ok=True)

    def run(self, *command: str, timeout: float = 60) -> str:
        """Run one of SLURM's commands, and return its standard output."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def cancel_all(self) -> None:
        """Cancel all jobs, and wait until the queue is empty."""
        self.run("scancel", "--user=root")
        self.wait_for(lambda: not self.run("squeue", "-h"))

    def queue(self) -> list[list[str]]:
        """Return [array or job ID, index, state, number of requeues] of each job."""
        lines = self.run("squeue", "-h", "-r", "-O", "ArrayJobID:|,ArrayTaskID:|,State:|,RestartCnt").splitlines()
        return [[word.strip() for word in line.split("|")] for line in lines]

    def wait_for(self, condition, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"waited for {seconds} s; {self.run('squeue')}"
            time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


if __name__ == "__main__":
    what, where = sys.argv[1:]
    cluster = Cluster(Path(where).resolve())
    if what == "start":
        cluster.__enter__()
        print(f"export SLURM_CONF={where}/slurm.conf")
    else:
        cluster.__exit__()
