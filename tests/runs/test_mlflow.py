"""MLflow: a server that the test starts, and the file of a sweep, read back by MLflow's own client."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import pytest
from conftest import TINY, rows

from ersparse.lightning.classifier import Classifier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]
pytest.importorskip("mlflow")


@pytest.fixture
def server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stores = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/files"]
    command = [sys.executable, "-m", "mlflow", "server", *stores, "--host", "127.0.0.1", "--port", str(port)]
    running = subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while time.monotonic() < until and running.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health") as answer:
            if answer.status == 200:
                break
        time.sleep(0.3)
    yield address
    running.terminate()
    running.wait(30)


def runs_of(address):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("mine")
    return client, client.search_runs([experiment.experiment_id])


def test_a_server_holds_what_runs_logged_and_how_they_ended(launch, tmp_path, monkeypatch, server):
    """One run that is done, one that fails and is resumed, and one that is interrupted."""
    training_step, words = Classifier.training_step, [*TINY, "trainer.max_epochs=2", "logger=[tensorboard,mlflow]"]
    words += [f"logger.tracking_uri={server}", "logger.experiment_name=mine"]
    assert launch(*words)[0] == 0

    def stopping_with(error, steps):
        def step(self, batch, index):
            steps.append(index)
            if len(steps) > 8:  # in the second epoch of six steps
                raise error
            return training_step(self, batch, index)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", stopping_with(RuntimeError("out of luck"), []))
        with pytest.raises(RuntimeError, match="out of luck"):
            launch(*words, "seed=1")
        patch.setattr(Classifier, "training_step", stopping_with(KeyboardInterrupt(), []))
        assert launch(*words, "seed=2")[0] == 130
    client, found = runs_of(server)
    states = {run.data.params["seed"]: (run.info.status, run.data.tags["state"]) for run in found}
    assert states == {"0": ("FINISHED", "done"), "1": ("FAILED", "failed"), "2": ("KILLED", "preempted")}
    assert launch(*words, "seed=1")[0] == 0
    client, found = runs_of(server)
    assert len(found) == 3
    for folder in tmp_path.glob("outputs/runs/*/s[01]"):
        record = json.loads((folder / "run.json").read_text())
        run = client.get_run(record["mlflow_id"])
        assert (run.info.status, run.info.run_name) == ("FINISHED", f"{folder.parent.name}/{folder.name}")
        curve = [point.value for point in client.get_metric_history(run.info.run_id, "test/acc")]
        assert curve == pytest.approx([float(row["test/acc"]) for row in rows(folder)])
        assert run.data.metrics["final/sparsity/realised"] == record["sparsity"]["realised"]
        assert run.data.params["model.name"] == "resnet20" and "dataset.root" not in run.data.params
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["layers.csv"]


@pytest.mark.by_hand
@pytest.mark.parametrize("store", ["file", "server"])
def test_a_sweep_is_held_by_one_store(request, process, tmp_path, store):
    """Two jobs start at once, and one of them creates the database, if it is a file."""
    words = [] if store == "file" else [f"logger.tracking_uri={request.getfixturevalue('server')}"]
    sweep = process("-m", *TINY, "logger=mlflow", "logger.experiment_name=mine", "seed=0,1", *words)
    printed, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, printed
    client, found = runs_of(words[0].partition("=")[2] if words else f"sqlite:///{tmp_path}/outputs/mlflow.db")
    assert {(run.data.params["seed"], run.info.status) for run in found} == {("0", "FINISHED"), ("1", "FINISHED")}
    for run in found:
        (folder,) = (path.parent for path in tmp_path.rglob(f"s{run.data.params['seed']}/run.json"))
        curve = [point.value for point in client.get_metric_history(run.info.run_id, "test/acc")]
        assert curve == pytest.approx([float(row["test/acc"]) for row in rows(folder)])
