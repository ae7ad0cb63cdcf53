"""A warm process for jobs that only draw: it imports PyTorch once and forks for each job, so that none sees another's
state. A draw takes a tenth of a second, the imports take seconds.

It reads [words, log] as JSON, one job a line, and answers with the number of the process that works on it, and then
with its exit status. It computes nothing itself: a process with threads must not be forked.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from ersparse.config.options import LAUNCH, PACKAGE, all_keys


def serve() -> None:
    """Answers until its input ends, and dies with the sweep."""
    from hydra.core.plugins import Plugins

    import ersparse.runs.run
    from ersparse.distributed.parent_death import tie_to_parent

    assert ersparse.runs.run
    tie_to_parent()
    Plugins.instance()  # Hydra looks for plugins once, and we for keys
    all_keys()
    for line in sys.stdin:
        words, log = json.loads(line)
        child = os.fork()
        if child == 0:
            _work(words, log)
        print(child, flush=True)
        _, waited = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(waited), flush=True)


def _work(words: Sequence[str], log: str) -> None:
    """The job, in a process and session of its own; never returns."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    status = 1
    try:
        from ersparse.cli import launch

        sys.argv = [str(LAUNCH if LAUNCH.is_file() else PACKAGE / "__main__.py"), *words]
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
