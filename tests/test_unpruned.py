"""Matrices that stay dense are named in the record, in a warning, and in reports."""

import json

import pytest
import torch
from conftest import read
from synthetic import write
from torch import nn

import ersparse
from ersparse import models
from ersparse.report.analysis.groups import group_by_experiment
from ersparse.report.analysis.runs import read_runs
from ersparse.report.tables.accuracy import results
from ersparse.sparse.layers import Layer, unpruned_matrices
from ersparse.sparse.summary import describe_masks


class LanguageModel(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.positions, self.token = nn.Parameter(torch.ones(1, 9, 16)), nn.Parameter(torch.ones(1, 1, 16))
        self.lstm, self.head = nn.LSTM(16, 16), nn.Linear(16, 50)
        self.norm, self.scale = nn.LayerNorm(16), nn.Parameter(torch.ones(16, 1, 1))
        if tied:
            self.head.weight = self.embedding.weight


def test_a_layer_without_counts_was_neither_drawn_nor_repaired():
    layers = [Layer("a", (4, 3))]
    (described,) = describe_masks(layers, [1.0], 1.0, {}, {}, None)["layers"]
    assert described["drawn"] == described["nonzero"] == described["size"] == 12
    for key in ("zero_degree", "edges_added", "edges_moved"):
        assert described[key] == {"in": 0, "out": 0}


def share_of_zeros(network: nn.Module) -> float:
    """The share of zeros in parameters that are matrices, by another count: over all parameters but the vectors."""
    matrices = [p for p in network.parameters() if p.squeeze().dim() > 1]
    return sum(int((p == 0).sum()) for p in matrices) / sum(p.numel() for p in matrices)


@pytest.mark.parametrize("tied, names", [(False, ["positions", "embedding.weight"]), (True, ["positions"])])
def test_sparsify_names_what_stays_dense(tied, names):
    network = LanguageModel(tied)
    with pytest.warns(UserWarning, match="^not pruned: ") as warned:
        _, record = ersparse.sparsify(network, "uniform", 0.9, flow="none")
    sizes = {name: network.get_parameter(name).numel() for name in names}
    assert record["sparsity"]["unpruned"] == sizes == json.loads(json.dumps(sizes))
    assert record["sparsity"]["realised_of_all"] == pytest.approx(share_of_zeros(network)) != 0.9
    [line] = [str(warning.message) for warning in warned]
    largest_first = ", ".join(reversed(names))
    assert line.startswith(f"not pruned: {largest_first}, {sum(sizes.values()):,} weights; the sparsity is 0.")


def test_nothing_is_said_where_every_matrix_is_pruned():
    """Warnings are errors here."""
    network = models.resnet20(10)
    _, record = ersparse.sparsify(network, "erk", 0.9)
    assert list(record["sparsity"]) == ["nominal", "expected", "realised", "effective"]
    names = [row["name"] for row in record["layers"]]
    assert list(unpruned_matrices(network, names[1:])) == names[:1]


CODE = """
import torch
from torch import nn

class Positioned(nn.Sequential):
    def __init__(self, num_classes, channels=3, width=1.0):
        super().__init__(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(channels * 64, num_classes))
        self.positions = nn.Parameter(torch.zeros(1, 4, 8))

def positioned(num_classes, channels=3, width=1.0):
    return Positioned(num_classes, channels)
"""


def test_runs_record_and_print_what_stays_dense(launch, only_run, tmp_path, monkeypatch):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "positioned.yaml").write_text(
        "# Mine.\ndefaults: [_common]\n_target_: positioned_model.positioned\nname: positioned"
    )
    (tmp_path / "mine" / "positioned_model.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    status, printed = launch("--config-dir", str(tmp_path / "mine"), "model=positioned", "method=draw")
    assert status == 0, printed
    sparsity = read(only_run())["sparsity"]
    assert sparsity["unpruned"] == {"positions": 32}
    kept = 640 * (1 - sparsity["realised"])
    assert sparsity["realised_of_all"] == pytest.approx(1 - (kept + 32) / 672)
    assert printed.count("not pruned: positions, 32 weights") == 1


def test_reports_have_a_column_only_if_something_stays_dense(tmp_path):
    for seed in range(2):
        write(tmp_path, seed=seed)
    keys = [column.key for column in results(_groups(tmp_path), "").columns]
    assert "realised_of_all" not in keys
    keys.insert(keys.index("realised") + 1, "realised_of_all")
    for path in tmp_path.rglob("run.json"):
        content = json.loads(path.read_text())
        content["sparsity"] |= {"unpruned": {"embedding": 7}, "realised_of_all": 0.5}
        path.write_text(json.dumps(content))
    table = results(_groups(tmp_path), "")
    assert [column.key for column in table.columns] == keys
    assert table.rows[0]["realised_of_all"] == 0.5


def _groups(root):
    (groups,) = group_by_experiment(read_runs(root)[0]).values()
    return groups
