"""Operations of a training step beyond the network's own: passes over the weights, sorts, synchronisations."""

from collections import Counter

import pytest
import pytorch_lightning as pl
import torch
from fitting import SGD, batches, trainer
from torch.utils._python_dispatch import TorchDispatchMode

from ersparse.config.edge_popup_search import EdgePopupSearch
from ersparse.config.rewiring_rules import RewiringRules
from ersparse.lightning.callbacks import ERInit, FixedMask, FlowRepair
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.lightning.classifier import Classifier
from ersparse.lightning.edge_popup import EdgePopupClassifier
from ersparse.models import resnet20
from ersparse.sparse import keep, mask, mask_buffer
from ersparse.sparse.density import uniform
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import attach
from ersparse.sparse.source import ERSource
from ersparse.sparse.topk import topk_mask

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal", "is_nonzero"}
SORTS = {"sort", "argsort", "topk", "kthvalue", "msort", "unique", "_unique2"}
RULES = RewiringRules(
    delta_t=100, drop_fraction=0.3, final_fraction=0.0, decay="cosine", t_end=0.75, grow="gradient", regrow=True,
    scope="layer", skip_step=True, grown_value="zero", grown_state="zero", keep_flow=False, final_sparsity=None,
    schedule="cubic", prune_until=0.5,
)  # fmt: skip


class Counting(TorchDispatchMode):
    """Counts operations by name, and those whose result has the shape of a weight."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes, self.all, self.whole = shapes, Counter(), Counter()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        name = function._schema.name.removeprefix("aten::")
        self.all[name] += 1
        if isinstance(result, torch.Tensor) and tuple(result.shape) in self.shapes and not function.is_view:
            self.whole[name] += 1
        return result


class OneStep(pl.Callback):
    """Counts the operations of a whole step, including those of Lightning."""

    def __init__(self, layers):
        self.counting = Counting({layer.shape for layer in layers})

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        if batch_index == 2:
            self.counting.__enter__()
        if batch_index == 3:
            self.counting.__exit__(None, None, None)


def counted(method):
    """Return the operations of the third step of a run, and the network's layers."""
    network = resnet20(10, channels=1)
    layers = prunable_layers(network)
    source, step = ERSource(layers, uniform(layers, 0.1), 0.1, seed=0), OneStep(layers)
    masking = [] if method == "dense" else [ERInit(source), FlowRepair(source), FixedMask()]
    rewiring = [Rewiring(RULES, layers, 0)] if method == "rigl" else []
    trainer([*masking, *rewiring, step]).fit(Classifier(network, 10, SGD, 1, ["test"]), batches(), [batches(64)])
    return step.counting, layers


@pytest.fixture(scope="module")
def dense():
    return counted("dense")[0]


@pytest.mark.parametrize("method", ["fixed", "rigl"])
def test_masks_cost_one_pass_over_each_layer(dense, method, monkeypatch):
    """Each mask multiplies its gradient and its weights once a step, in place; nothing sorts or synchronises."""
    zeroed = []
    for module in (mask, keep, mask_buffer):
        monkeypatch.setattr(module, "zero_removed", lambda weight, kept: zeroed.append(weight.shape))
    found, layers = counted(method)
    steps, shapes = 4, [layer.shape for layer in layers]
    assert zeroed[: len(shapes)] == shapes  # as training starts
    for step in range(steps):
        in_step = zeroed[len(shapes) * (1 + 2 * step) :][: 2 * len(shapes)]
        assert Counter(in_step[: len(shapes)]) == Counter(shapes) and in_step[len(shapes) :] == shapes
    assert zeroed[len(shapes) * (1 + 2 * steps) :] == shapes  # as it ends
    assert dense.whole and not found.whole - dense.whole
    assert set(found.all - dense.all) <= {"detach"}
    assert not (WAITS | SORTS) & set(found.all)


def test_edge_popup_never_sorts_and_makes_few_passes():
    network = resnet20(10, channels=1)
    layers = prunable_layers(network)
    attach(network, ERSource(layers, uniform(layers, 0.5), 0.5, seed=0).draw())
    search = EdgePopupSearch(
        levels=1, lr_restart=False, score_init="kaiming_uniform", affine=False, signed=False, scope="layer", min_keep=0
    )
    module = EdgePopupClassifier(network, 10, SGD, 1, ["test"], search, 0)
    module.set_density(0.1)
    module.train()
    x, y = next(iter(batches(64)))
    module.training_step((x, y), 0).backward()  # which leaves the source's weights behind
    module.zero_grad()
    counting = Counting({layer.shape for layer in layers})
    with counting:
        module.training_step((x, y), 0).backward()
    assert not (WAITS | SORTS) & set(counting.all)
    passes = {"abs": 1, "add_": 1, "mul": 1, "sign": 1, "mul_": 2}  # two to rank, one forward, three for gradients
    arithmetic = ("convolution", "_to_copy", "mm", "detach", "t")  # of a dense step too: autocast's copies, gradients
    counts = {name: count for name, count in counting.whole.items() if not name.startswith(arithmetic)}
    assert counts == {name: len(layers) * each for name, each in passes.items()}


def test_selection_never_synchronises_with_the_gpu():
    """The meta device follows the GPU's code path, and reading a value there raises an error."""
    values = torch.empty(64, 32, 3, 3, device="meta")
    for count in (100, values.numel() - 100):
        with Counting(set()) as counting:
            mask, _ = topk_mask(values, count)
        assert mask.shape == values.shape and mask.dtype == torch.bool
        assert not (WAITS | {"kthvalue", "sort"}) & set(counting.all), "kthvalue is one block of threads"
    with pytest.raises(RuntimeError):
        values.sum().item()
