"""Loggers: what W&B and TensorBoard receive, read from their files."""

import json
import runpy
import struct
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import ROOT, TINY, rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from ersparse.errors import RunFailed
from ersparse.lightning.classifier import Classifier
from ersparse.methods.fixed import Fixed
from ersparse.runs.loggers.csv import CsvLogger
from ersparse.runs.loggers.select import _keys_of
from ersparse.runs.loggers.several import SeveralLoggers
from ersparse.runs.loggers.tensorboard import TensorboardLogger
from ersparse.runs.loggers.wandb import WandbLogger

BLOCK = 32768


def transactions(path):
    """The records of a .wandb file: after seven bytes, LevelDB's log format, each record a protobuf message."""
    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def read_back(folder):
    """(run, config, history rows, summary) of each offline run in a run folder, oldest first.

    W&B's own process may still be writing when the run has ended: waits until two readings are the same.
    """
    found, until = offline_runs(folder), time.monotonic() + 20
    while time.monotonic() < until:
        before = found
        time.sleep(0.3)
        found = offline_runs(folder)
        if found == before and all(run for run, *_ in found):
            break
    return found


def offline_runs(folder):
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        run, config, rows, summary = None, {}, [], {}
        for record in transactions(path):
            if record.HasField("run"):
                run = record.run
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if record.HasField("history"):
                rows.append({_name(item): json.loads(item.value_json) for item in record.history.item})
            summary |= {_name(item): json.loads(item.value_json) for item in record.summary.update}
        found.append((run, config, rows, summary))
    return found


def endings(folder):
    """(exit status, whether it was marked as being preempted) of each offline run in a run folder, oldest first."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        records = [*transactions(path)]
        statuses = [record.exit.exit_code for record in records if record.HasField("exit")]
        found.append((*statuses, any(record.HasField("preempting") for record in records)))
    return found


def _name(item):
    return item.key or ".".join(item.nested_key)


def curve(rows, name):
    return [row[name] for row in rows if name in row]


class Wandering(Fixed):
    """Moves one kept weight of the largest layer in every epoch but the first."""

    def callbacks(self, plan):
        import pytorch_lightning as pl

        from ersparse.sparse.mask import masks_of

        class Move(pl.Callback):
            def on_train_epoch_end(self, trainer, module):
                mask = max(masks_of(module.network).values(), key=torch.numel)
                if trainer.current_epoch:
                    flat = mask.view(-1)
                    taken, given = flat.nonzero()[0], (~flat).nonzero()[0]
                    flat[taken], flat[given] = False, True

        return [*super().callbacks(plan), Move()]


def test_wandb_receives_curves_layers_and_summary(launch, only_run, monkeypatch):
    monkeypatch.setenv("ERSPARSE_SWEEP", "sweep-01234567")
    status, printed = launch(*TINY, "trainer.max_epochs=2", "logger=wandb", "seed=3")
    assert status == 0, printed
    record = json.loads((only_run() / "run.json").read_text())
    ((run, config, rows, summary),) = read_back(only_run())
    assert (run.run_id, run.project, run.run_group, run.job_type) == (
        record["wandb_id"], "ersparse", "sweep-01234567", "fixed",
    )  # fmt: skip
    assert run.display_name == f"{only_run().parent.name}/s3"
    assert set(run.tags) == {"resnet20", "digits", "balanced", "fixed", "paper", "full"}
    assert {"model", "dataset", "sparsity", "method", "optimizer", "seed", "hash"} <= set(config)
    assert not {"paths", "logger", "trainer"} & set(config) and "root" not in config["dataset"]
    accuracy = curve(rows, "test/acc")
    assert len(accuracy) == 2 and accuracy[-1] == pytest.approx(record["metrics"]["test/acc"])
    assert not curve(rows, "mask/grown"), "fixed masks have no such curve"
    assert summary["sparsity/realised"] == record["sparsity"]["realised"] and summary["state"] == "done"
    assert summary["test/acc_best"] == record["metrics"]["test/acc_best"]
    assert summary["timing/images_per_s"] > 0
    (table,) = only_run().glob("wandb/offline-run-*/files/media/table/layers_*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["name", "size", "density", "drawn", "nonzero"]
    assert content["data"] == [[layer[column] for column in content["columns"]] for layer in record["layers"]]


def test_changing_masks_are_logged(launch, only_run):
    target = f"method._target_={__name__}.Wandering"
    status, printed = launch(*TINY, "trainer.max_epochs=3", "logger=wandb", target, "method.name=wandering")
    assert status == 0, printed
    record = json.loads((only_run() / "run.json").read_text())
    ((_, _, rows, _),) = read_back(only_run())
    kept = sum(layer["nonzero"] for layer in record["layers"])
    assert curve(rows, "mask/grown") == pytest.approx([1 / kept, 1 / kept])
    assert curve(rows, "mask/sparsity") == pytest.approx([record["sparsity"]["realised"]] * 2)


@pytest.mark.parametrize("error", [
    RuntimeError("out of luck"), pytest.param(KeyboardInterrupt(), marks=pytest.mark.slow),
])  # fmt: skip
def test_a_resumed_run_keeps_its_wandb_id(launch, only_run, monkeypatch, error):
    """W&B knows that the first attempt failed, or was interrupted."""
    training_step, steps = Classifier.training_step, []

    def interrupted(self, batch, index):
        steps.append(index)
        if len(steps) > 8:  # in the second of three epochs of six steps
            raise error
        return training_step(self, batch, index)

    words = [*TINY, "trainer.max_epochs=3", "logger=wandb"]
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", interrupted)
        if isinstance(error, KeyboardInterrupt):
            assert launch(*words)[0] == 130
        else:
            with pytest.raises(RuntimeError, match="out of luck"):
                launch(*words)
    status, printed = launch(*words)
    assert status == 0, printed
    record = json.loads((only_run() / "run.json").read_text())
    first, second = read_back(only_run())
    assert first[0].run_id == second[0].run_id == record["wandb_id"]
    interrupted_first = isinstance(error, KeyboardInterrupt)
    assert endings(only_run()) == [(130 if interrupted_first else 1, interrupted_first), (0, False)]
    assert len(curve(first[2], "test/acc")) == 1 and len(curve(second[2], "test/acc")) == 2
    assert second[3]["state"] == "done"


class FakeWandbRun:
    def __init__(self):
        self.told = []

    @property
    def experiment(self):
        return self

    def mark_preempting(self):
        self.told.append("preempting")

    def finish(self, exit_code):
        self.told.append(exit_code)


@pytest.mark.parametrize("error, told", [
    (None, [0]), (ValueError("training died"), [1]), (RunFailed("layer collapse"), [1]), (MemoryError(), [1]),
    (KeyboardInterrupt(), ["preempting", 130]), (SystemExit(1), ["preempting", 130]),
])  # fmt: skip
def test_wandb_is_told_how_a_run_ended(error, told):
    logger = WandbLogger(name="wandb", _target_="ersparse.runs.loggers.wandb.WandbLogger")
    run = FakeWandbRun()
    with pytest.raises(type(error)) if error else nullcontext():
        with logger.finished(run):
            if error:
                raise error
    assert run.told == told


def test_an_interrupted_run_ends_even_if_the_process_of_wandb_has_ended():
    class Ended(FakeWandbRun):
        def mark_preempting(self):
            raise ConnectionResetError

    logger = WandbLogger(name="wandb", _target_="ersparse.runs.loggers.wandb.WandbLogger")
    with pytest.raises(KeyboardInterrupt), logger.finished(Ended()):
        raise KeyboardInterrupt


def test_the_agent_template_names_existing_keys_and_options(launch):
    """Every value of every parameter is accepted on the command line, as an agent writes it."""
    template = yaml.safe_load((ROOT / "docs" / "wandb-sweep.yaml").read_text())
    assert template["command"][1:3] == ["python", "${program}"] and (ROOT / template["program"]).is_file()
    own = [word for word in template["command"] if "=" in word]
    axes = [f"{key}={','.join(map(str, value['values']))}" for key, value in template["parameters"].items()]
    status, printed = launch("-m", "dry_run=true", *own, *axes)
    assert status == 0 and printed.splitlines()[-1] == "48 jobs"


def test_the_report_template_builds_without_an_account():
    pytest.importorskip("wandb_workspaces")
    path = ROOT / "docs" / "wandb_report.py"
    names = runpy.run_path(str(path))
    assert len(names["report"]("someone", "ersparse").blocks[0].panels) == 4


def test_the_report_template_is_valid_python():
    compile((ROOT / "docs" / "wandb_report.py").read_text(), "wandb_report.py", "exec")


def scalars(folder):
    """The curves of TensorBoard's event files, read by its own reader: name -> values."""
    reader = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: [event.value for event in reader.Scalars(name)] for name in reader.Tags()["scalars"]}


def texts(folder, name):
    """The texts of that name in TensorBoard's event files, in the order of their time."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload().Tensors(f"{name}/text_summary")
    ordered = sorted(events, key=lambda event: event.wall_time)
    return [event.tensor_proto.string_val[0].decode() for event in ordered]


def test_several_loggers_receive_the_same(launch, only_run):
    words = [*TINY, "trainer.max_epochs=2", "logger=[wandb,tensorboard]", "logger.project=mine"]
    status, printed = launch(*words)
    assert status == 0, printed
    wanted = [float(row["test/acc"]) for row in rows(only_run())]
    ((run, _, history, summary),) = read_back(only_run())
    assert run.project == "mine" and summary["state"] == "done"
    assert curve(history, "test/acc") == pytest.approx(wanted)
    assert scalars(only_run())["test/acc"] == pytest.approx(wanted)
    assert endings(only_run()) == [(0, False)]
    assert "conv1.weight|" in texts(only_run(), "layers")[0] and texts(only_run(), "state") == ["running", "done"]


@pytest.mark.parametrize("errors", [
    [None], [ValueError("training died")], [KeyboardInterrupt(), None], [RunFailed("collapse"), SystemExit(1), None],
])  # fmt: skip
def test_tensorboard_shows_the_state_after_each_attempt(tmp_path, errors):
    kind = TensorboardLogger(name="tensorboard", _target_="ersparse.runs.loggers.tensorboard.TensorboardLogger")
    wanted = []
    for error in errors:
        logger = kind.create(SimpleNamespace(folder=tmp_path), None)
        with pytest.raises(type(error)) if error else nullcontext(), kind.finished(logger):
            logger.finalize("failed" if error else "success")  # by Lightning, which closes the file of events
            if error:
                raise error
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        wanted += ["running", "done" if error is None else "preempted" if stopped else "failed"]
    assert texts(tmp_path, "state") == wanted


OWN = {
    "logger/lines": "_target_: pytorch_lightning.loggers.CSVLogger\nname: lines\nversion: '{hash}-s{seed}'",
    "logger/wrong": "_target_: pytorch_lightning.loggers.CSVLogger\nname: wrong\nfolder: here",
    "logger/nothing": "_target_: collections.OrderedDict\nname: nothing",
}


@pytest.fixture
def own_loggers(tmp_path):
    for name, text in OWN.items():
        (tmp_path / f"mine/{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"mine/{name}.yaml").write_text(f"# A logger.\n{text}\n")
    return str(tmp_path / "mine")


def test_a_logger_of_lightning_by_yaml_alone(launch, only_run, own_loggers):
    status, printed = launch("--config-dir", own_loggers, *TINY, "logger=[lines,tensorboard]")
    assert status == 0, printed
    record = json.loads((only_run() / "run.json").read_text())
    folder = only_run() / "lightning_logs" / f"{record['hash']}-s0"
    header, *lines = (folder / "metrics.csv").read_text().splitlines()
    assert float(lines[-1].split(",")[header.split(",").index("test/acc")]) == record["metrics"]["test/acc"]
    assert yaml.safe_load((folder / "hparams.yaml").read_text())["model"]["name"] == "resnet20"
    assert scalars(only_run())["test/acc"] == pytest.approx([record["metrics"]["test/acc"]])


@pytest.mark.parametrize("option, message", [
    ("wrong", "logger.folder=here: no such key; pytorch_lightning.loggers.CSVLogger does not take it"),
    ("nothing", "logger._target_=collections.OrderedDict: must name a subclass of ersparse.runs.loggers.base.Run"),
    ("[csv,nowhere]", "logger/nowhere"),
])  # fmt: skip
def test_wrong_loggers_are_refused(launch, tmp_path, own_loggers, option, message):
    status, printed = launch("--config-dir", own_loggers, *TINY, f"logger={option}")
    assert status == 2 and message in printed and printed.count("\n") == 1 and not (tmp_path / "outputs").exists()


class Refusing(TensorboardLogger):
    """A logger whose package refuses to begin, as W&B does without a key and MLflow without a server."""

    def create(self, plan, record):
        raise ConnectionRefusedError(111, "refused") if self.name == "server" else LookupError("no key,\nlog in first")


@pytest.mark.parametrize("name, error, message", [
    ("key", RunFailed, r"^logger=key: raises LookupError: no key, log in first \(test_loggers\.py:\d+\)$"),
    ("server", RunFailed, r"^logger=server: raises ConnectionRefusedError: \[Errno 111\] refused \(test_log.*\)$"),
])  # fmt: skip
def test_a_logger_that_refuses_is_one_line(name, error, message):
    with pytest.raises(error, match=message):
        Refusing(name=name, _target_="x").created(None, None)
    several = SeveralLoggers(target="", name="several", loggers=[CsvLogger(name="csv", _target_="x"),
        Refusing(name=name, _target_="x")])  # fmt: skip
    with pytest.raises(error, match=message):
        several.created(None, None)


def test_keys_of_several_loggers_are_told_apart():
    """`mode` of both is unchanged, so each keeps its own; `project` was set."""
    options = [{"name": "a", "_target_": "x", "mode": 1, "project": None}, {"name": "b", "mode": 2, "uri": None}]
    merged = {"name": "b", "_target_": "x", "mode": 2, "project": "p", "uri": "u"}
    assert _keys_of(options[0], options, merged) == {"name": "a", "_target_": "x", "mode": 1, "project": "p"}
    assert _keys_of(options[1], options, merged) == {"name": "b", "mode": 2, "uri": "u"}
    assert _keys_of(options[0], options, merged | {"mode": 3})["mode"] == 3
