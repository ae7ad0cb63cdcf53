"""trainer.execution=graphed on the fake device: recorded steps give the results of masked execution, bit for bit."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from conftest import outcome, read
from fake_device.recording import FakeRecorder
from fake_device.tensors import Watch, fake_device
from fake_device.test_runs import EPOCHS, RESIDUAL, RIGL, RUNS
from fake_device.training import Steps, run
from pytorch_lightning import Callback

from ersparse.errors import RunFailed, UserError
from ersparse.lightning import auto_settings, step_graphs
from ersparse.lightning.step_graphs import StepGraphs, autocast_off, no_cached_casts

GRAPHED = "trainer.execution=graphed"
QUICK = ["granet_from_dense", "edge_popup_affine"]
SLOW = [  # of each kind of method, and of what acts between two steps
    "mixed", "averaged", "ham", "sign_in", "rigl_skips_steps", "rigl_pilot", "set", "acdc", "str", "edge_popup_global",
    "imp",
]  # fmt: skip


@pytest.fixture(autouse=True)
def recorder():
    """Steps are recorded after one ordinary step of their shape."""
    FakeRecorder.recorded.clear()
    with mock.patch.multiple(step_graphs, CudaRecorder=FakeRecorder, WARM_UP=1):
        yield FakeRecorder


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_recorded_steps_train_as_masked_ones(name, tmp_path, recorder):
    expected = run(tmp_path / "cpu", RUNS[name], "cpu", Callback())
    steps = Steps()
    found = run(tmp_path / "device", [*RUNS[name], GRAPHED], "fake", steps)
    assert read(found)["config"]["trainer"]["execution"] == "graphed" and outcome(found) == outcome(expected)
    replays = sum(recording.replays for recording in recorder.recorded)
    record, ran = read(found)["graphed"], len(steps.watches)
    assert replays >= 2 and "graphed" not in read(expected)
    assert record == {"recorded": "forward and backward pass", "replayed": replays, "ordinary": ran - replays}
    assert "records the forward and backward pass only" in (found / "run.log").read_text()
    updates = 2 if (found / "rewiring.csv").exists() else 0
    assert all(watch.waits.total() <= (updates if step % 2 == 0 else 0) for step, watch in steps.watches.items())


def test_a_replayed_step_hands_the_device_few_operations(tmp_path):
    found = {}
    for execution in ("masked", "graphed"):
        steps = Steps()
        run(tmp_path / execution, [*EPOCHS, *RESIDUAL, f"trainer.execution={execution}"], "fake", steps)
        found[execution] = steps.watches[5].operations
    assert found["masked"]["convolution_backward"] == 3 and "convolution_backward" not in found["graphed"]
    assert found["graphed"].total() < found["masked"].total() - 25, found


def test_updates_by_dense_gradients_are_ordinary_steps(tmp_path, recorder):
    """Of nine steps, 3, 6 and 9 are smaller, 2, 4 and 6 update, and the first of each shape is ordinary as well."""
    steps = Steps()
    run(tmp_path, [*RIGL, GRAPHED, "trainer.max_epochs=3"], "fake", steps)
    assert [recording.replays for recording in recorder.recorded] == [3, 1]  # 5, 7 and 8; 9
    computed = [step for step, watch in steps.watches.items() if watch.operations["convolution_backward"]]
    assert computed == [1, 2, 3, 4, 5, 6, 9]  # 5 and 9 were recorded


@pytest.mark.parametrize(
    "words, reason",
    [
        (["trainer.accelerator=cpu"], "needs a GPU of CUDA"),
        (["trainer.accumulate=2"], "needs trainer.accumulate=1"),
        (["trainer.precision=16-mixed"], "needs trainer.precision=bf16-mixed or 32-true"),
        (["trainer.detect_anomaly=true"], "needs trainer.detect_anomaly=false"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_is_created(words, reason, tmp_path):
    with pytest.raises(UserError, match=f"^trainer.execution=graphed: {reason}.*must be auto, masked or compiled$"):
        run(tmp_path, [*EPOCHS, GRAPHED, *words], "cpu" if "cpu" in words[0] else "fake", Callback())
    assert not list(tmp_path.iterdir())


def test_several_devices_are_refused():
    """Their collective operations would be part of the graphs, which NCCL waits for when it ends."""
    several = SimpleNamespace(ranks=2, accumulate=1, detect_anomaly=False)
    with pytest.raises(UserError, match=r"^trainer.execution=graphed: needs trainer.devices=1; must be auto"):
        auto_settings._check_graphed(several, "gpu", "32-true")


def graphs_of(network, device):
    network = network.to(device)

    def compute(x, y):
        logits = network(x)
        return logits, logits.logsumexp(1).mean()

    return network, StepGraphs(network, compute, FakeRecorder())


def test_a_network_that_waits_for_the_device_is_told_in_one_line():
    class Waiting(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x * float(x.max()))

    with fake_device() as device:
        _, graphs = graphs_of(Waiting(3, 2), device)
        x, y = torch.ones(4, 3).to(device), torch.zeros(4).to(device)
        graphs.backward(graphs.forward(x, y)[1])
        with pytest.raises(RunFailed, match=r"^trainer.execution=graphed: .* cannot be recorded \(.*capturing"):
            graphs.forward(x, y)


def test_weights_that_were_replaced_are_recorded_anew(recorder):
    with fake_device() as device:
        network, graphs = graphs_of(torch.nn.Linear(3, 2), device)
        x, y = torch.ones(4, 3).to(device), torch.zeros(4).to(device)
        for _ in range(3):
            graphs.check()
            graphs.backward(graphs.forward(x, y)[1])
        assert len(recorder.recorded) == 1 and len(graphs.steps) == 1
        network.weight = torch.nn.Parameter(torch.ones(2, 3).to(device))
        graphs.check()
        assert not graphs.steps
        logits, loss = graphs.forward(x, y)
        graphs.backward(loss)
        assert torch.equal(logits.cpu(), network(x).detach().cpu()) and network.weight.grad is not None


def test_a_recording_leaves_the_device_as_it_was_and_replays_read_new_images(recorder):
    """The fake device's own check: BatchNorm's statistics change with replays alone."""
    with fake_device() as device:
        network, graphs = graphs_of(torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2)), device)
        reference = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
        reference.load_state_dict({name: tensor.cpu() for name, tensor in network.state_dict().items()})
        y = torch.zeros(4).to(device)
        for _ in range(4):
            x = torch.randn(4, 3)
            with Watch() as seen:
                logits, loss = graphs.forward(x.to(device, non_blocking=True), y)
            reference.zero_grad()
            expected = reference(x)
            expected.logsumexp(1).mean().backward()
            graphs.backward(loss)
            assert torch.equal(logits.detach().cpu(), expected) and seen.waits.total() == 0
            for parameter, other in zip(network.parameters(), reference.parameters(), strict=True):
                assert torch.equal(parameter.grad.cpu(), other.grad)
            network.zero_grad()
        assert int(network[0].num_batches_tracked.cpu()) == 4 and recorder.recorded[0].replays == 3


def test_casts_of_autocast_are_never_kept_in_a_recording():
    """A cast that was cached before would not be recorded, and replays would use the weights of that time."""
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        with no_cached_casts():
            assert not torch.is_autocast_cache_enabled()
            with torch.no_grad():
                layer.weight.zero_()
                layer.bias.zero_()
            assert before.any() and not layer(x).any()
        assert torch.is_autocast_cache_enabled()
        with autocast_off("cpu"):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
