"""Searches with Optuna: the space, the loop of trials, pruning, and recovery. Stubs stand in for runs."""

import csv
import math
import random
import time
from collections import Counter

import pytest
from conftest import TINY, paths_in, read
from conftest import rows as rows_of
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from ersparse.cli.retry import _unfinished_jobs
from ersparse.config.groups import build
from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.storage.atomic import write_json
from ersparse.storage.objective import check_objective, value_of
from ersparse.sweep.job import Job
from ersparse.sweep.job_state import JobStates
from ersparse.sweep.search.options import SearchOptions
from ersparse.sweep.search.space import parse_space
from ersparse.sweep.search.study import JOURNAL, RUN, open_search
from ersparse.sweep.search.trials import Trials


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """The journal is flushed to disk several times for each trial, which matters when the power fails."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


PARSER = OverridesParser.create()
SETTINGS = {
    "optimizer": {"lr": 0.1, "name": "sgd"}, "model": {"widen": 10, "name": "wrn28"},
    "trainer": {"clip_norm": None, "max_epochs": 3},
}  # fmt: skip
EPOCHS = 3


def space_of(*words, params=None):
    return parse_space(words, params, PARSER)


# ---- The space -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word, expected",
    [
        ("optimizer.lr=interval(0.01,0.2)", FloatDistribution(0.01, 0.2)),
        ("optimizer.lr=interval(0,1)", FloatDistribution(0, 1)),
        ("optimizer.lr=tag(log,interval(1e-3,1))", FloatDistribution(1e-3, 1, log=True)),
        ("optimizer.lr=range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("trainer.max_epochs=interval(2,9)", IntDistribution(2, 9)),
        ("trainer.max_epochs=tag(log,interval(2,90))", IntDistribution(2, 90, log=True)),
        ("model.widen=range(2,11,2)", IntDistribution(2, 10, step=2)),
        ("model.widen=range(10,1,-3)", IntDistribution(4, 10, step=3)),
        ("trainer.clip_norm=interval(1,5)", FloatDistribution(1, 5)),
        ("trainer.clip_norm=int(interval(1,5))", IntDistribution(1, 5)),
        ("optimizer=sgd,adamw", CategoricalDistribution(["sgd", "adamw"])),
        ("optimizer=choice(sgd,adamw)", CategoricalDistribution(["sgd", "adamw"])),
        ("model,dataset=[vgg16,digits],[mlp,digits]", CategoricalDistribution(["[vgg16,digits]", "[mlp,digits]"])),
    ],
)
def test_dimensions_have_the_distribution_that_key_and_grammar_say(word, expected):
    (distribution,) = space_of("seed=3", word).distributions(SETTINGS).values()
    assert distribution == expected


def test_yaml_and_command_line_describe_the_same_space():
    yaml = {"optimizer.lr": "tag(log, interval(0.01, 1))", "model,dataset": [["vgg16", "cifar10"], ["vgg19", "digits"]],
            "model.width": [0.5, 1], "scale": "short"}  # fmt: skip
    words = ["optimizer.lr=tag(log,interval(0.01,1))", "model,dataset=[vgg16,cifar10],[vgg19,digits]", "scale=short"]
    from_yaml, typed = space_of(params=yaml), space_of(*words, "model.width=0.5,1")
    assert from_yaml.distributions(SETTINGS) == typed.distributions(SETTINGS) and from_yaml.fixed == typed.fixed
    assert space_of("optimizer.lr=0.1", params=yaml).fixed == ("scale=short", "optimizer.lr=0.1"), "one value fixes it"
    params = {"optimizer.lr": 0.30000000000000004, "model,dataset": "[vgg19,digits]", "model.width": "0.5"}
    assert typed.overrides(params) == [
        "scale=short",
        "optimizer.lr=0.3",
        "model=vgg19",
        "dataset=digits",
        "model.width=0.5",
    ]


def test_each_choice_and_both_ends_of_an_interval_are_among_the_corners():
    corners = space_of("seed=1", "a=interval(0.5,2)", "b=x,y,z").corners()
    assert corners == [
        ["seed=1", "a=0.5", "b=x"], ["seed=1", "a=2", "b=x"], ["seed=1", "a=0.5", "b=y"], ["seed=1", "a=0.5", "b=z"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "words, message",
    [
        (["seed=0"], "hydra/sweeper=optuna: must have something to search"),
        (["seed=0,1"], "seed: must have one value"),
        (["a=1,2", "or", "a=3,4"], "or: must be left out"),
        (["experiment=a,b"], "experiment: must have one value"),
        (["optimizer.lr=tag(power,interval(1,2))"], "must have no tag but log, has power"),
        (["optimizer.lr=tag(log,range(1,3))"], "log must be a tag of an interval"),
        (["optimizer.lr=range(3,3)"], "must be a range of at least one number"),
        (["optimizer.lr=tag(log,interval(0,1))"], "optimizer.lr=tag(log,interval(0,1)): "),
        (["optimizer.lr=interval(1,0.5)"], "optimizer.lr=interval(1,0.5): "),
        (["optimizer.name=interval(0,1)"], "optimizer.name=interval(0,1): must be choices"),
        (["optimizer=interval(0,1)"], "optimizer=interval(0,1): must be choices"),
        (["model.widen=interval(0.5,3)"], "model.widen=interval(0.5,3): must have whole numbers"),
    ],
)
def test_spaces_that_cannot_be_searched_are_refused_in_one_line(words, message):
    with pytest.raises(UserError) as error:
        space_of(*words).distributions(SETTINGS)
    assert message in str(error.value) and "\n" not in str(error.value)


# ---- Options and objectives ------------------------------------------------------------------------------------------


def options_of(**keys):
    given = {
        "n_trials": 24, "n_jobs": None, "objective": "val/acc", "direction": "maximize", "storage": None,
        "sampler": {"_target_": "optuna.samplers.TPESampler", "seed": 0},
        "pruner": {"_target_": "optuna.pruners.NopPruner"},
    } | keys  # fmt: skip
    return build(SearchOptions, given, "hydra.sweeper.")


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"n_trials": 0}, "hydra.sweeper.n_trials=0: must lie in [1, inf)"),
        ({"n_trial": 3}, "hydra.sweeper.n_trial=3: no such key"),
        ({"direction": "up"}, "hydra.sweeper.direction.0=up: must be one of maximize, minimize"),
        ({"objective": ["val/acc", "flops"]}, "hydra.sweeper.direction=['maximize']: must have one for each of"),
        ({"sampler": {"_target_": "optuna.samplers.Tpe"}}, "_target_=optuna.samplers.Tpe: cannot be imported"),
        ({"sampler": {"_target_": "TPESampler"}}, "hydra.sweeper.sampler._target_=TPESampler: must name a class"),
        ({"sampler": {"_target_": "pathlib.Path"}}, "hydra.sweeper.sampler._target_=pathlib.Path: must name a class"),
        ({"sampler": {"_target_": "optuna.samplers.TPESampler", "sead": 1}}, "unexpected keyword argument 'sead'"),
        ({"pruner": {"_target_": "optuna.pruners.PercentilePruner", "percentile": 200}}, "hydra.sweeper.pruner="),
        ({"pruner": {"_target_": "optuna.pruners.MedianPruner"}, "objective": ["val/acc", "flops"],
          "direction": ["maximize", "minimize"]}, "must be NopPruner with several objectives"),
    ],
)  # fmt: skip
def test_options_are_checked_in_one_line(keys, message):
    with pytest.raises(UserError) as error:
        options = options_of(**keys)
        options.make_sampler(), options.make_pruner()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["nonsense", "foo://u:secret@h/db", "sqlite:////nowhere/x.db"])
def test_a_storage_that_cannot_be_opened_is_refused_without_its_password(url, tmp_path):
    with pytest.raises(UserError, match=r"^hydra.sweeper.storage=.*: must be the URL of a database") as error:
        with open_search("s", tmp_path / "root", options_of(storage=url), False):
            pass
    assert not (tmp_path / "root").exists()
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize("key", ["test/acc", "metrics.test/loss", "test/acc_at_best_val", "per_class.test.0"])
def test_no_objective_is_of_the_test_set(key):
    with pytest.raises(UserError, match="must not be a figure of the test set"):
        check_objective(key, "objective", 0.5)


def test_objectives_are_metrics_numbers_of_the_record_and_flops():
    record = {
        "metrics": {"val/acc": 0.9, "val/loss": None, "test/acc": 1.0}, "sparsity": {"realised": 0.5, "strict": True},
        "layers": [{"nonzero": 10, "positions": 4}, {"nonzero": 3, "positions": 1}], "timing": {}, "state": "done",
        "best_validation": {"val/acc": 0.95},
    }  # fmt: skip
    keys = ["val/acc", "val/loss", "metrics.val/acc", "sparsity.realised", "flops", "best_validation.val/acc"]
    assert [value_of(record, key, "o") for key in keys] == [0.9, None, 0.9, 0.5, 86.0, 0.95]
    for key in ("val/acx", "state", "sparsity", "sparsity.strict", "timing.fit_s"):
        with pytest.raises(
            UserError, match=rf"^o={key}: .* must be one of val/acc, val/loss, flops, sparsity.realised"
        ):
            value_of(record, key, "o")


# ---- The loop of trials ----------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


class StubPool(JobStates):
    """Each call of `advance` trains an epoch of every job, and may be killed before any of them."""

    def __init__(self, score, killed_at=None):
        super().__init__([])
        self.score, self.killed_at, self.epochs, self.fails = score, killed_at, 0, set()

    def interrupt(self, job_state):
        """It takes a while until its process ends."""

    def advance(self):
        for job_state in self.select("waiting", "running"):
            if self.epochs == self.killed_at:
                raise Killed
            self.epochs += 1
            job_state.state = "pruned" if job_state.pruned else "running"
            if job_state.pruned:
                run_json.mark_pruned(job_state.job.folder, job_state.pruned)
            else:
                self._train(job_state)

    def _train(self, job_state):
        folder = job_state.job.folder
        folder.mkdir(parents=True, exist_ok=True)
        rows = rows_of(folder) if (folder / "metrics.csv").exists() else []
        params = dict(word.split("=") for word in job_state.job.overrides)
        rows.append(
            {"epoch": len(rows), "val/acc": self.score(float(params["x"]), float(params["y"])) * (len(rows) + 1)}
        )
        with (folder / "metrics.csv").open("w") as file:
            table = csv.DictWriter(file, ["epoch", "val/acc"])
            table.writeheader(), table.writerows(rows)
        done = len(rows) == EPOCHS
        record = {"state": "done" if done else "preempted", "metrics": {"val/acc": rows[-1]["val/acc"]}, "layers": [],
                  "command": "launch.py", "config": {}, "progress": {"epoch": len(rows), "epochs": EPOCHS}}  # fmt: skip
        write_json(folder / "run.json", record)
        if done:
            job_state.state = "failed" if job_state.job.folder in self.fails else "done"


WORDS = ("x=interval(0,1)", "y=interval(0,1)")


def bowl(x, y):
    """The best point is (0.3, 0.7)."""
    return 1 - (x - 0.3) ** 2 - (y - 0.7) ** 2


def search(root, score=bowl, words=WORDS, killed_at=None, parallel=3, pool=None, **keys):
    """Issues the command of a search once, and returns its trials."""
    options, space = options_of(**keys), space_of(*words)

    def job_of(overrides):
        folder = root / "runs" / "-".join(overrides) / "s0"
        return Job(tuple(overrides), folder, root, 1, False, EPOCHS)

    pool = pool or StubPool(score, killed_at)
    with open_search("search", root, options, False) as opened:
        trials = Trials(opened, space, space.distributions({}), job_of, options.n_trials, parallel)
        trials.update(pool)
        while pool.select("waiting", "running"):
            pool.advance()
            trials.update(pool)
        return trials, opened.study.get_trials()


def folders(root):
    return sorted(path.parent.parent.name for path in root.rglob("run.json"))


def test_a_search_that_is_killed_goes_on_without_a_trial_lost_or_repeated(tmp_path):
    """Killed in its first epochs, between two epochs of a trial, and near its end."""
    for killed_at in (1, 11, 20):
        with pytest.raises(Killed):
            search(tmp_path, killed_at=killed_at)
    half_written = tmp_path / "searches" / "search" / JOURNAL
    half_written.write_bytes(half_written.read_bytes() + b'{"op_code":')
    trials, found = search(tmp_path)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 24
    assert len({tuple(trial.params.values()) for trial in found}) == 24
    assert folders(tmp_path) == sorted(trial.user_attrs[RUN].split("/")[1] for trial in found)
    for path in tmp_path.rglob("metrics.csv"):
        assert [row["epoch"] for row in rows_of(path.parent)] == ["0", "1", "2"], "a killed run goes on"
    table = list(csv.DictReader((tmp_path / "searches" / "search" / "trials.csv").read_text().splitlines()))
    assert [float(row["val/acc"]) for row in table] == [trial.value for trial in found]
    best = max(found, key=lambda trial: trial.value)
    assert trials.summary()[0].startswith(f"best  val/acc={best.value:.6g}  x={best.params['x']:.6f}"[:-2])
    assert trials.summary()[-1].startswith("24 of 24 trials: 24 done, 0 pruned")
    assert len(search(tmp_path)[1]) == 24, "a finished search does nothing"
    assert len(search(tmp_path, n_trials=26)[1]) == 26, "and one that wants more goes on"


def test_a_search_finds_better_points_than_as_many_random_ones(tmp_path):
    """Which also holds if trials are proposed three at a time."""
    errors = [3 - max(trial.value for trial in search(tmp_path / str(seed), sampler={
        "_target_": "optuna.samplers.TPESampler", "seed": seed})[1]) for seed in range(3)]  # fmt: skip
    drawn = random.Random(0)
    at_random = [3 - 3 * max(bowl(drawn.random(), drawn.random()) for _ in range(24)) for _ in range(200)]
    assert sum(errors) / 3 < sum(at_random) / 200


def test_a_choice_is_tried_once_however_often_it_is_proposed(tmp_path):
    """Six points for 24 trials: the search ends by itself, and says so."""
    trials, found = search(tmp_path, words=["x=0,1", "y=0,0.5,1"])
    counted = [trial for trial in found if "why" not in trial.user_attrs]
    assert len(counted) == len(folders(tmp_path)) == 6 and trials.exhausted
    assert all(trial.state == TrialState.FAIL for trial in found if trial not in counted)
    assert trials.summary()[-1].startswith("the sampler proposes nothing new")
    assert trials.summary()[-2].startswith("6 of 24 trials")


@pytest.mark.parametrize("name", ["RandomSampler", "QMCSampler", "NSGAIISampler", "BruteForceSampler", "GridSampler"])
def test_any_sampler_of_optunas_proposes(tmp_path, name):
    keys = {"search_space": {"x": ["0", "1"], "y": ["0", "0.5", "1"]}} if name == "GridSampler" else {}
    sampler = {"_target_": f"optuna.samplers.{name}", "seed": 3, **keys}
    finite = name in ("BruteForceSampler", "GridSampler")
    words = ["x=0,1", "y=0,0.5,1"] if finite else WORDS
    _, found = search(tmp_path, words=words, sampler=sampler, n_trials=6)
    counted = [trial for trial in found if "why" not in trial.user_attrs]
    assert len({tuple(trial.params.items()) for trial in counted}) == 6


def test_hopeless_trials_are_stopped_and_counted(tmp_path):
    """They are pruned in the study, in run.json and for `status`, and `retry` leaves them."""
    pruner = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 4}
    _, found = search(tmp_path, pruner=pruner)
    counts = Counter(trial.state for trial in found)
    assert counts[TrialState.PRUNED] > 3 and counts.total() == 24
    assert all(trial.intermediate_values.keys() <= {0, 1, 2} for trial in found)
    for trial in found:
        folder = tmp_path / trial.user_attrs[RUN]
        record, pruned = read(folder), trial.state == TrialState.PRUNED
        assert run_json.state_of(record, folder) == ("pruned" if pruned else "done")
        if pruned:
            epoch = trial.last_step
            assert (
                record["error"]
                == f"pruned after epoch {epoch + 1}, val/acc={trial.value:.4g} (trial {trial.number} of search)"
            )
            others = [
                other.intermediate_values[epoch]
                for other in found
                if other.number < trial.number and other.state == TrialState.COMPLETE
            ]
            assert trial.value < max(others)
    assert _unfinished_jobs(tmp_path) == []


def test_a_failed_trial_is_repeated_by_the_next_command(tmp_path):
    pool = StubPool(bowl)
    pool.fails = type("All", (), {"__contains__": lambda self, folder: len(pool.states) < 4})()
    trials, found = search(tmp_path, pool=pool, n_trials=6)
    assert trials.failed > 0 and Counter(trial.state for trial in found)[TrialState.RUNNING] == trials.failed
    assert len(found) == 6, "they count, or a search that always fails would never end"
    _, again = search(tmp_path, n_trials=6)
    assert len(again) == 6 and {trial.state for trial in again} == {TrialState.COMPLETE}


def test_an_objective_that_is_not_finite_ends_its_trial(tmp_path):
    _, found = search(tmp_path, score=lambda x, y: math.nan if x < 0.5 else 1.0, n_trials=8)
    assert {trial.state for trial in found} == {TrialState.FAIL, TrialState.COMPLETE} and len(found) == 8
    assert all((trial.state == TrialState.FAIL) == (trial.params["x"] < 0.5) for trial in found)


def test_several_objectives_have_a_front(tmp_path):
    keys = {"objective": ["val/acc", "flops"], "direction": ["maximize", "minimize"], "n_trials": 5}
    trials, found = search(tmp_path, **keys)
    assert all(trial.values[1] == 0.0 for trial in found)
    assert sum(line.startswith("best  val/acc=") and " flops=0 " in line for line in trials.summary()) == 1


def test_a_database_keeps_a_study_and_refuses_another_root(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    search(tmp_path / "a", storage=url, n_trials=2)
    assert len(search(tmp_path / "a", storage=url, n_trials=3)[1]) == 3
    assert not (tmp_path / "a" / "searches" / "search" / JOURNAL).exists()
    with pytest.raises(UserError, match=rf"^paths.root={tmp_path}/b: must be {tmp_path}/a, where the runs of"):
        search(tmp_path / "b", storage=url)


def test_two_commands_do_not_search_at_once(tmp_path):
    with open_search("search", tmp_path, options_of(), False):
        with pytest.raises(UserError, match="searches/search: in use by another process; wait for it, or stop it"):
            search(tmp_path)


def test_fresh_forgets_the_trials(tmp_path):
    search(tmp_path, n_trials=2)
    for fresh, count in ((False, 2), (True, 0)):
        with open_search("search", tmp_path, options_of(), fresh) as opened:
            assert len(opened.study.get_trials()) == count


# ---- The command line ------------------------------------------------------------------------------------------------

SEARCH = ["hydra/sweeper=optuna", *TINY, "optimizer.lr=tag(log,interval(0.01,1))", "optimizer.momentum=0,0.9"]
SPLIT = "dataset.validation=0.2"


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "hydra.sweeper.objective=val/acc: needs validation images; dataset.validation must be above 0"),
        (["hydra.sweeper.objective=test/acc", SPLIT], "hydra.sweeper.objective=test/acc: must not be a figure of the"),
        (["method=draw", SPLIT], "hydra.sweeper.objective=val/acc: method=draw trains nothing"),
        (["sparsity.level=interval(0.5,1)", SPLIT], "sparsity.level=1: must lie in [0, 1)"),
        (["sparsity.sampling=interval(0,1)", SPLIT], "sparsity.sampling=0: must be one of bernoulli, exact"),
        (["trainer.devices=1,2", SPLIT], "trainer.devices=1,2: is no part of a run's identity"),
        (["hydra.sweeper.n_trials=0", SPLIT], "hydra.sweeper.n_trials=0: must lie in [1, inf)"),
        (["hydra.sweeper.trials=9", SPLIT], "hydra.sweeper.trials: no such key"),
        (["hydra/launcher=basic", SPLIT], "hydra/launcher=basic: must be local or slurm with hydra/sweeper=optuna"),
    ],
)
def test_a_search_is_refused_before_anything_is_created(launch, tmp_path, words, message):
    status, printed = launch(*SEARCH, *words)
    assert status == 2 and printed.startswith(message) and printed.count("\n") == 1, printed
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_the_space_and_creates_nothing(launch, tmp_path):
    status, printed = launch(*SEARCH, SPLIT, "dry_run=true")
    lines = printed.splitlines()
    assert status == 0 and lines[0].startswith(f"search      {tmp_path}/outputs/searches/search-")
    assert lines[2:4] == ["dimension   optimizer.lr=tag(log,interval(0.01,1))", "dimension   optimizer.momentum=0,0.9"]
    assert "objective   maximize val/acc" in lines and lines[-1] == "20 trials" and "epochs      20" in lines
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("count, kills", [(4, 1), pytest.param(24, 3, marks=pytest.mark.by_hand)])
def test_a_search_on_digits_that_is_killed_ends_with_its_trials(process, tmp_path, count, kills):
    network = ["model=mlp", "model.hidden=[32]", "trainer.max_epochs=3"]
    words = [*SEARCH[:-1], "optimizer.momentum=interval(0,0.95)", *network, SPLIT, f"hydra.sweeper.n_trials={count}"]
    for kill in range(kills):
        command = process(*words)
        while len(folders(tmp_path)) < count * (kill + 1) / (kills + 1) and command.poll() is None:
            time.sleep(0.02)
        assert command.poll() is None, "it was to be killed while it searched"
        command.kill()
        command.communicate()
    command = process(*words)
    printed, _ = command.communicate(timeout=600)
    assert command.returncode == 0 and f"{count} of {count} trials: {count} done, 0 pruned" in printed, printed
    (table,) = tmp_path.glob("outputs/searches/*/trials.csv")
    trials = list(csv.DictReader(table.read_text().splitlines()))
    assert len(trials) == len({trial["run"] for trial in trials}) == len(folders(tmp_path)) == count
    for trial in trials:
        record = read(tmp_path / "outputs" / trial["run"])
        assert record["metrics"]["val/acc"] == float(trial["val/acc"])
        assert record["config"]["optimizer"]["lr"] == pytest.approx(float(trial["optimizer.lr"]), rel=1e-12)


def test_a_single_run_returns_and_prints_its_objective(launch, finished, tmp_path):
    """For a search of one's own, of a run that is done already."""
    from hydra import compose, initialize_config_dir

    import ersparse
    from ersparse.config.options import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*TINY, *paths_in(tmp_path)])
    folder, sparsity = ersparse.run(config, objective="sparsity.realised")
    assert folder == finished == ersparse.run(config) and sparsity == read(finished)["sparsity"]["realised"]
    with pytest.raises(UserError, match="^objective=test/acc: must not be a figure of the test set"):
        ersparse.run(config, objective="test/acc")
    with pytest.raises(UserError, match="^objective=val/acc: needs validation images"):
        ersparse.run(config, objective="val/acc")
    write_json(finished / "run.json", read(finished) | {"metrics": {"test/acc": 0.5, "val/acc": 0.25}})
    assert "test accuracy 0.5000, validation accuracy 0.2500, realised" in launch(*TINY)[1]
