"""MLflow: a tracking server, or a folder.

As with W&B, the keys that are sent are chosen one by one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ersparse.runs.loggers.base import LAYER_COLUMNS, RunLogger, layer_rows, shown_config, shown_summary
from ersparse.runs.plan import Plan
from ersparse.runs.record import NetworkRecord
from ersparse.storage.locks import exclusive

LOCK = "mlflow.lock"
FILES = "mlflow"
STORE = "mlflow.db"  # in paths.root, if neither the key nor the environment names a server
PARAMETER_LENGTH = 500  # characters of a parameter that MLflow stores
STATUS = {"done": "FINISHED", "failed": "FAILED", "preempted": "KILLED"}  # of states of run.json


class MlflowLogger(RunLogger):
    """Logs curves, parameters, the layers as a text, and final figures; a resumed run continues under its own id.

    A run is FINISHED, FAILED, or KILLED if it was interrupted; its tag `state` is that of run.json.
    """

    package: ClassVar[str | None] = "mlflow"

    tracking_uri: str | None = None
    experiment_name: str = "ersparse"

    def create(self, plan: Plan, record: NetworkRecord) -> Any:
        from mlflow.tracking import MlflowClient  # slow to import
        from pytorch_lightning.loggers import MLFlowLogger

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        uri = self._uri(plan)
        with exclusive(Path(plan.settings.paths.root) / LOCK):  # of jobs that start at once, one creates the database
            client = MlflowClient(uri)
            run = _found(client, record.content.get("mlflow_id")) or self._created(client, plan, record)
        record.save(mlflow_id=run)
        client.update_run(run, status="RUNNING")
        client.set_tag(run, "state", "running")
        return MLFlowLogger(self.experiment_name, tracking_uri=uri, run_id=run)

    def _uri(self, plan: Plan) -> str:
        root = Path(plan.settings.paths.root).resolve()
        return self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / STORE}"

    def _created(self, client: Any, plan: Plan, record: NetworkRecord) -> str:
        """Create a run, and its experiment if it is missing, and return the id of the run."""
        found = client.get_experiment_by_name(self.experiment_name)
        experiment = found.experiment_id if found else self._create_experiment(client, plan)
        tags = {"hash": plan.hash, "method": plan.method.name, "group": plan.settings.experiment or ""}
        name = f"{plan.folder.parent.name}/s{plan.settings.seed}"
        run: str = client.create_run(experiment, tags=tags, run_name=name).info.run_id
        for key, value in _flat(shown_config(record)):
            client.log_param(run, key, str(value)[:PARAMETER_LENGTH])
        return run

    def _create_experiment(self, client: Any, plan: Plan) -> str:
        """Create the experiment, which another job may do at the same time; files lie beside a database of our own."""
        from mlflow.exceptions import MlflowException

        files = Path(plan.settings.paths.root).resolve() / FILES
        try:
            is_ours = self._uri(plan).endswith(f"/{STORE}")
            created: str = client.create_experiment(self.experiment_name, str(files) if is_ours else None)
        except MlflowException:
            created = client.get_experiment_by_name(self.experiment_name).experiment_id
        return created

    def describe_layers(self, logger: Any, record: NetworkRecord) -> None:
        lines = [",".join(map(str, row)) for row in [list(LAYER_COLUMNS), *layer_rows(record)]]
        logger.experiment.log_text(logger.run_id, "\n".join(lines) + "\n", "layers.csv")

    def summarise(self, logger: Any, record: NetworkRecord) -> None:
        for key, value in shown_summary(record).items():
            if isinstance(value, float | int):
                logger.experiment.log_metric(logger.run_id, f"final/{key}", float(value))

    def end(self, logger: Any, state: str) -> None:
        logger.experiment.set_tag(logger.run_id, "state", state)
        logger.experiment.set_terminated(logger.run_id, STATUS[state])


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _found(client: Any, run: str | None) -> str | None:
    """Return the id of an earlier attempt's run, if the server still has it."""
    from mlflow.exceptions import MlflowException

    try:
        return run if run and client.get_run(run).info.lifecycle_stage == "active" else None
    except MlflowException:
        return None
