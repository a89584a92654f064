"""A private Slurm: munged, slurmctld and some slurmd of this machine, on ports and in a folder of their own, without
systemd, cgroups or a data base. Works beside a real one and beside others of its kind, as root or not.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

CONFIGURATION = """\
ClusterName=private{port}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/state/%n
SlurmctldPidFile={folder}/state/slurmctld.pid
SlurmdPidFile={folder}/state/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
PlugStackConfig={folder}/plugstack.conf
TmpFS={folder}/tmp/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=3
MessageTimeout=60
MinJobAge=3600
InactiveLimit=0
JobRequeue=1
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs={cpus} Boards=1 SocketsPerBoard=1 \
CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes={nodes} Default=YES MaxTime=INFINITE State=UP
GresTypes=gpu
"""

OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL")


class SlurmError(Exception):
    pass


def free_ports(count: int) -> int:
    """The first of `count` neighbouring free ports, below those that the kernel hands out."""
    first = 17000 + (os.getpid() * 37) % 14000
    while first + count < 32768:
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("0.0.0.0", port))
                return first
            except OSError:
                first += count
    raise SlurmError(f"no {count} free ports")


class PrivateSlurm:
    def __init__(self, nodes: int = 2, cpus: int = 8) -> None:
        self.n_nodes, self.cpus = nodes, cpus
        # Paths of sockets are at most 107 characters long.
        self.folder = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.munged = 0
        self.environment = {k: v for k, v in os.environ.items() if not re.match(r"(SLURM|SBATCH|SALLOC|SRUN)_", k)}
        self.environment["SLURM_CONF"] = str(self.folder / "slurm.conf")
        # PMIx's store in shared memory sometimes crashes while many ranks start at once (openpmix issue 1114).
        self.environment.setdefault("PMIX_MCA_gds", "hash")
        # Two nodes of one machine have one address. Open MPI 5 asks the kernel for the way there, is told the loopback
        # device, and takes the nodes for unreachable.
        self.environment.setdefault("OMPI_MCA_reachable", "weighted")

    def __enter__(self) -> PrivateSlurm:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        folder = self.folder
        for name in ("munge", "state", "log", "tmp", "dev"):
            (folder / name).mkdir()
        (folder / "munge").chmod(0o700)
        folder.chmod(0o755)
        (folder / "munge" / "key").write_bytes(os.urandom(128))
        (folder / "munge" / "key").chmod(0o400)
        munge = [f"--{name}={folder}/munge/{name.removesuffix('-file')}" for name in ("key-file", "pid-file", "log-file")]
        munge += [f"--seed-file={folder}/munge/seed", f"--socket={folder}/munge/socket", "--num-threads=2", "--force"]
        subprocess.run(["munged", *munge], check=True, capture_output=True)
        self.munged = int((folder / "munge" / "pid").read_text())

        names = [f"n{i + 1}" for i in range(self.n_nodes)]
        port, last = free_ports(self.n_nodes + 1), self.n_nodes
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                folder=folder,
                host=socket.gethostname().split(".")[0],
                user=getpass.getuser(),
                port=port,
                nodes=f"n[1-{last}]",
                ports=f"[{port + 1}-{port + last}]",
                cpus=self.cpus,
            )
        )
        # Slurm wants a device file of each GPU; that it is /dev/null it does not notice.
        for number in range(2):
            (folder / "dev" / f"gpu{number}").symlink_to("/dev/null")
        (folder / "gres.conf").write_text(f"NodeName=n[1-{last}] Name=gpu File={folder}/dev/gpu[0-1]\n")
        (folder / "plugstack.conf").touch()
        self.daemon("slurmctld", ["slurmctld", "-D", "-f", str(folder / "slurm.conf")])
        # Nodes of one machine would meet in /dev/shm, where Open MPI takes them for different hosts. As root each gets a
        # host name and a /dev/shm of its own, otherwise ranks talk by TCP.
        own = ["unshare", "--mount", "--uts"]
        if subprocess.run([*own, "true"], capture_output=True).returncode != 0:
            own = []
            self.environment["OMPI_MCA_btl"] = "self,tcp"
        for name in names:
            (folder / "tmp" / name).mkdir(mode=0o777)
            command = ["slurmd", "-D", "-N", name, "-f", str(folder / "slurm.conf")]
            if own:
                script = 'hostname "$0" && mount -t tmpfs tmpfs /dev/shm && exec "$@"'
                command = [*own, "sh", "-c", script, name, *command]
            self.daemon(name, command)
        self.wait_for_nodes(names)

    def daemon(self, name: str, command: list[str]) -> None:
        with open(self.folder / "log" / f"{name}.out", "wb") as log:
            # A session of its own: an interrupt at the terminal must not end it before us.
            self.daemons.append(
                subprocess.Popen(
                    command,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def wait_for_nodes(self, names: list[str]) -> None:
        end = time.monotonic() + 40
        while time.monotonic() < end:
            idle = self.call("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False).split()
            if sorted(set(idle)) == names:
                return
            time.sleep(0.1)
        logs = "\n".join(path.read_text(errors="replace")[-1000:] for path in (self.folder / "log").iterdir())
        raise SlurmError(f"the private Slurm did not come up:\n{logs}")

    def stop(self) -> None:
        if self.daemons:
            self.call("scancel", "--user", getpass.getuser(), "--hurry", check=False)
            end = time.monotonic() + 10
            while time.monotonic() < end and self.call("squeue", "-h", check=False):
                time.sleep(0.1)
        for process in reversed(self.daemons):
            process.terminate()
        for process in self.daemons:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.munged:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.munged, signal.SIGTERM)
        self.end_leftovers()
        shutil.rmtree(self.folder, ignore_errors=True)

    def end_leftovers(self) -> None:
        """slurmstepd and what it started, known by our configuration in their environment."""
        mark = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)

    def call(self, *command: str, check: bool = True) -> str:
        try:
            run = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=90)
        except subprocess.TimeoutExpired as error:
            if not check:
                return ""
            raise SlurmError(f"{' '.join(command)}: hangs") from error
        if check and run.returncode != 0:
            raise SlurmError(f"{' '.join(command)}: exit code {run.returncode}: {run.stderr}")
        return run.stdout

    # ---- jobs

    def field(self, job: str, name: str) -> str:
        """A field of `scontrol show job`, e.g. JobState, Restarts, ExitCode."""
        shown = self.call("scontrol", "-o", "show", "job", job, check=False)
        found = re.search(rf"\b{name}=(\S+)", shown)
        return found.group(1) if found else ""

    def wait_for(self, job: str, states: tuple[str, ...] = OVER, seconds: float = 90) -> str:
        end = time.monotonic() + seconds
        state = ""
        while time.monotonic() < end:
            state = self.field(job, "JobState")
            if state in states:
                return state
            time.sleep(0.1)
        queue = self.call("squeue", check=False)
        raise SlurmError(f"job {job}: still {state} after {seconds} s\n{queue}")
