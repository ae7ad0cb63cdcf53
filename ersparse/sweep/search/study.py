"""The study of a search: its trials, and the storage in which they outlive the command."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ersparse.errors import UserError
from ersparse.storage.atomic import write_text
from ersparse.storage.locks import HeartbeatLock, LockHeld
from ersparse.sweep.search.options import PREFIX, SearchOptions

JOURNAL = "study.journal"
RUN, WHY, ROOT = "run", "why", "root"  # attributes of a trial: its run folder, why it does not count; and of the study
SEEN = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass
class Search:
    """A study of Optuna's, with what is recorded beside it.

    Attributes:
        name: name of the study.
        folder: folder with its journal and table, `<paths.root>/searches/<name>`.
        objectives: names of the objectives.
        study: the study.
        storage: its storage.
    """

    name: str
    folder: Path
    objectives: list[str]
    study: optuna.Study
    storage: BaseStorage

    def ask(self, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
        """Return a new trial, which is recorded before its run begins."""
        number = self.study.ask(fixed_distributions=dict(distributions)).number
        return self.trial(number)

    def trial(self, number: int) -> FrozenTrial:
        """Return a trial as it is now."""
        return self.storage.get_trial(self._id(number))

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in these states, by number."""
        return self.study.get_trials(deepcopy=False, states=states)

    def ended(self) -> int:
        """Return how many trials count: done or pruned, or of a run whose objective is not finite."""
        return sum(WHY not in trial.user_attrs for trial in self.trials(*SEEN, TrialState.FAIL))

    def note(self, number: int, **attributes: Any) -> None:
        """Record attributes of a trial that has not ended."""
        for key, value in attributes.items():
            self.storage.set_trial_user_attr(self._id(number), key, value)

    def report(self, number: int, rows: Mapping[int, float]) -> None:
        """Record intermediate values by epoch; those that are known are left."""
        known = self.trial(number).intermediate_values
        for epoch, value in rows.items():
            if epoch not in known:
                self.storage.set_trial_intermediate_value(self._id(number), epoch, value)

    def is_hopeless(self, number: int) -> bool:
        """Return whether the pruner would stop a trial at its last intermediate value."""
        trial = self.trial(number)
        return bool(trial.intermediate_values) and self.study.pruner.prune(self.study, trial)

    def tell(self, number: int, state: TrialState, values: list[float] | None = None) -> bool:
        """End a trial, and write the table.

        Returns:
            Whether the sampler has more to propose; GridSampler and BruteForceSampler end.
        """
        try:
            self.study.tell(number, values, state)
        except RuntimeError:  # the sampler calls `study.stop`, which the loop of Optuna alone understands
            return False
        finally:
            write_text(self.folder / "trials.csv", self.table())
        return True

    def table(self) -> str:
        """Return the trials as CSV: number, state, objectives, dimensions, run folder, and why one does not count."""
        trials = self.study.get_trials(deepcopy=False)
        names = list(dict.fromkeys(name for trial in trials for name in trial.params))
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["trial", "state", *self.objectives, *names, RUN, WHY])
        for trial in trials:
            values = trial.values or [""] * len(self.objectives)
            params = [trial.params.get(name, "") for name in names]
            attributes = [trial.user_attrs.get(key, "") for key in (RUN, WHY)]
            table.writerow([trial.number, trial.state.name.lower(), *values, *params, *attributes])
        return text.getvalue()

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)


@contextmanager
def open_search(name: str, root: Path, options: SearchOptions, fresh: bool) -> Iterator[Search]:
    """Open the study of this name, which is created if it is new, and hold its lock during the block.

    Args:
        name: name of the study.
        root: `paths.root`.
        options: the options of the search.
        fresh: whether an existing study is removed first.

    Raises:
        UserError: another command uses it, the storage cannot be opened, or the study is that of another root.
    """
    sampler, pruner = options.make_sampler(), options.make_pruner()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    database = None if options.storage is None else _database(options.storage)
    with _locked(root / "searches" / name) as folder:
        storage = database or _journal(folder / JOURNAL)
        if fresh and name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(
            storage=storage, sampler=sampler, pruner=pruner, study_name=name, directions=options.direction,
            load_if_exists=True,
        )  # fmt: skip
        _check_root(study, root, options)
        if study.get_trials(deepcopy=False):
            sampler.reseed_rng()  # or the random numbers of the first command would come again
        yield Search(name, folder, options.objective, study, storage)


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    lock = HeartbeatLock(folder / ".lock", "the search")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except LockHeld as held:
        where = f"on {held.host}" if held.host else "by another process"
        raise UserError(f"{folder}: in use {where}; wait for it, or stop it") from None
    except OSError as error:
        raise UserError(f"paths.root: {folder} cannot be written ({error.strerror or error})") from None
    try:
        yield folder
    finally:
        lock.release()


def _database(url: str) -> BaseStorage:
    """Return the storage in a database.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        return RDBStorage(url)
    except Exception as error:  # of the driver of whichever database
        shown, reason = re.sub(r"//[^@/]*@", "//…@", url), str(error).splitlines()[0]
        raise UserError(
            f"{PREFIX}storage={shown}: must be the URL of a database, as sqlite:///study.db ({reason})"
        ) from None


def _journal(path: Path) -> BaseStorage:
    """Return the storage in a file, whose folder this process has locked."""
    _repair(path)
    return JournalStorage(JournalFileBackend(str(path)))


def _repair(journal: Path) -> None:
    """Remove what a process that was killed may have left: the lock of the journal, and half a line at its end."""
    journal.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    if journal.exists():
        content = journal.read_bytes()
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _check_root(study: optuna.Study, root: Path, options: SearchOptions) -> None:
    """Check that the runs of a study in a database lie where this command looks for them."""
    own = str(root.absolute())
    if (before := study.user_attrs.get(ROOT, own)) != own:
        raise UserError(f"paths.root={root}: must be {before}, where the runs of {PREFIX}storage={options.storage} lie")
    study.set_user_attr(ROOT, own)
