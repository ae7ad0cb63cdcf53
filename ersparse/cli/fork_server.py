"""Fork server for jobs that only draw a network: it imports PyTorch once, and forks for each job.

A draw takes a tenth of a second, the imports take seconds. Each job has a process of its own, so that it does not see
the state of another. The server itself computes nothing, because a process with threads must not be forked.

It reads one job a line, [arguments, log file] as JSON, and answers with two lines: the process ID of the job, and its
exit status once it has ended.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from ersparse.config.options import LAUNCH, PACKAGE, all_keys


def serve() -> None:
    """Run the jobs that arrive on stdin, one at a time, until it is closed or the sweep ends."""
    from hydra.core.plugins import Plugins

    import ersparse.runs.run
    from ersparse.distributed.parent_death import tie_to_parent

    assert ersparse.runs.run
    tie_to_parent()
    Plugins.instance()  # Hydra's search for plugins and our search for keys are cached, for all jobs
    all_keys()
    for line in sys.stdin:
        arguments, log = json.loads(line)
        child = os.fork()
        if child == 0:
            _run_job(arguments, log)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run_job(arguments: Sequence[str], log: str) -> None:
    """Run a job in the forked process, in a session of its own. Does not return."""
    os.setsid()
    _redirect(log)
    status = 1
    try:
        from ersparse.cli import launch

        sys.argv = [str(LAUNCH if LAUNCH.is_file() else PACKAGE / "__main__.py"), *arguments]
        status = launch()
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _redirect(log: str) -> None:
    """Connect stdin to /dev/null, and stdout and stderr to the log file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
