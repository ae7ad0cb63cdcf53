"""trainer.execution=compiled: the same training, and masks that change without recompilation.

PyTorch's tracer is tried, and what it compiles is run as it is: generating code takes minutes, and is PyTorch's matter.
"""

from functools import partial

import pytest
import torch
from conftest import TINY, outcome, read
from fitting import SGD
from runs.plain import plain
from torch._dynamo.utils import counters

from ersparse.lightning.classifier import Classifier

METHODS = {
    "fixed": ["trainer.max_epochs=3"],
    "rigl": ["method=rigl", "method.delta_t=2", "trainer.max_epochs=3"],
    "edge_popup": ["method=edge_popup", "method.final_sparsity=0.95", "method.levels=3", "method.epochs_per_level=1"],
    "imp": ["method=imp", "method.levels=2", "method.epochs_per_level=1", "method.final_epochs=1"],
    "acdc": ["method=acdc", "method.phases=1", "method.sparse_last=0.5", "trainer.max_epochs=3"],
    "gmp": ["method=gmp", "method.delta_t=2", "method.final_sparsity=0.9", "trainer.max_epochs=3"],
    "str": ["method=str", "trainer.max_epochs=3"],
    "topkast": ["method=topkast", "trainer.max_epochs=3"],
    "spred": ["method=spred", "trainer.max_epochs=3"],
    "sign_in": ["method.reparametrization=sign_in", "method.factors.reset_every=1", "trainer.max_epochs=3"],
    "ham": ["optimizer.ham={alpha:2,beta:0.1}", "trainer.max_epochs=3"],
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # PyTorch hides it itself
@pytest.mark.parametrize("method", METHODS)
def test_masks_change_without_recompilation(method, launch, only_run, monkeypatch):
    """There are two graphs, one for the smaller last batch, and results equal those of a masked run bit for bit."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    words = [*TINY[::2], *METHODS[method], "fresh=true"]
    found = []
    for execution in ("masked", "compiled"):
        torch._dynamo.reset()
        counters.clear()
        status, printed = launch(*words, f"trainer.execution={execution}")
        assert status == 0, printed
        assert read(only_run())["config"]["trainer"]["execution"] == execution
        assert counters["stats"]["unique_graphs"] == (2 if execution == "compiled" else 0)
        assert not counters["graph_break"]
        found.append(outcome(only_run()))
    assert found[0] == found[1]


@pytest.mark.slow
def test_the_smaller_last_batch_does_not_change_the_graph_of_the_others(monkeypatch):
    """By default PyTorch would compile a graph for all sizes then, and use it from the second epoch on."""
    graphs, executed = [], []

    def backend(graph, inputs):
        number = len(graphs)
        graphs.append(graph)

        def run(*arguments):
            executed.append(number)
            return graph.forward(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    module = Classifier(plain(10, channels=1), 10, SGD, 1, ["test"]).train()
    module.compile_steps()
    for count in (8, 8, 5) * 3:
        module(torch.randn(count, 1, 8, 8))
    assert executed == [0, 0, 1] * 3
