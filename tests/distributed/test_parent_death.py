"""Child processes end with their parent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ersparse.distributed.parent_death import PARENT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG exists on Linux only")

CHILD = "from ersparse.distributed.parent_death import tie_to_parent; tie_to_parent(); print('tied', flush=True); "
REST = CHILD + "import time; time.sleep(60)"
PARENT_CODE = f"""
import subprocess, sys, time
from ersparse.distributed.parent_death import tie_to_parent
tie_to_parent()
child = subprocess.Popen([sys.executable, "-c", {REST!r}], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_dies_with_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT_CODE], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert parent.stdout.readline() == "tied\n" and lives(child)
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 10
    while lives(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not lives(child)


def run(parent, prefix=()):
    environment = os.environ | {PARENT: str(parent)}
    return subprocess.run([*prefix, sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True)


def test_a_child_whose_parent_has_ended_exits():
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert run(gone.pid).returncode == 1 and "tied" not in run(gone.pid).stdout


def test_a_shell_may_stand_between_parent_and_child():
    assert run(os.getpid()).stdout == "tied\n"
    assert run(os.getpid(), ["sh", "-c", '"$@"; true', "sh"]).stdout == "tied\n"


def test_a_process_without_an_ersparse_parent_runs():
    environment = {key: value for key, value in os.environ.items() if key != PARENT}
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True)
    assert done.stdout == "tied\n"


def test_an_interrupt_reaches_a_job_of_a_background_sweep():
    """A shell without job control starts background processes with SIGINT ignored, which children inherit."""
    ignored = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    environment = os.environ | {PARENT: str(os.getpid())}
    job = subprocess.Popen(
        [sys.executable, "-c", REST],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=ignored,
    )
    assert job.stdout.readline() == b"tied\n"
    job.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in job.communicate(timeout=10)[1]
