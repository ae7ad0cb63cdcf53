"""Training steps as CUDA graphs (`trainer.execution=graphed`): recorded once for each shape of a batch, then replayed.

A recorded step is the forward and the backward pass. The host hands it to the GPU as a whole, while an ordinary step
takes a launch for each of some hundred operations. Optimizer, masks, metrics and callbacks act between two replays, as
they do between ordinary steps, so that every method, optimizer and schedule works as it is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ersparse.errors import RunFailed
from ersparse.sparse.keep import records_dense_gradients

log = logging.getLogger(__name__)

RECORDED = "forward and backward pass"
WARM_UP = 3  # ordinary steps of a shape before it is recorded: libraries choose algorithms and allocate memory in them

Outputs = tuple[Tensor, Tensor]  # logits and loss


class Recorder(Protocol):
    """What records the operations of a device."""

    def beside(self) -> AbstractContextManager[None]:
        """Return a context in which operations run as they do while they are recorded."""

    def record(self, step: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        """Record a step without executing it; return its outputs, which each call of the second result overwrites."""

    def forget(self) -> None:
        """Wait until no recorded step is running, so that its memory can be freed."""

    def address(self, tensor: Tensor) -> int:
        """Return where a tensor lies."""


class CudaRecorder:
    """Records CUDA graphs.

    Ordinary steps run on the stream on which others are recorded. Autograd keeps the stream of nodes that accumulate
    gradients, and libraries have a handle for each stream; either would invalidate a recording on another one.
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()  # of all graphs, of which one runs at a time

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run operations on the stream of recordings, after those of the current stream and before its next."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def record(self, step: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        """Record a step as a CUDA graph. Threads that read images or write checkpoints may use CUDA meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
            outputs = step()
        return outputs, graph.replay

    def forget(self) -> None:
        """Wait for the GPU."""
        torch.cuda.synchronize()

    def address(self, tensor: Tensor) -> int:
        """Return the address of a tensor on the GPU."""
        return tensor.data_ptr()


class RecordedStep(NamedTuple):
    """A recorded step, and the memory that it reads and writes.

    Attributes:
        x, y: images and labels, which are copied there before a replay.
        outputs: logits and loss.
        gradients: (parameter, gradient).
        replay: executes the step.
    """

    x: Tensor
    y: Tensor
    outputs: Outputs
    gradients: list[tuple[Tensor, Tensor]]
    replay: Callable[[], None]


class StepGraphs:
    """Computes training steps, by a recorded step where there is one for the shape of the batch.

    Steps that record dense gradients, as updates of rewiring do, are ordinary ones.

    Args:
        module: the module whose parameters are trained.
        compute: function from images and labels to logits and loss.
        recorder: of the device; None records CUDA graphs.

    Attributes:
        steps: the recorded steps, by shape and type of images and labels.
        executed: numbers of "replayed" and "ordinary" steps.
    """

    def __init__(
        self, module: nn.Module, compute: Callable[[Tensor, Tensor], Outputs], recorder: Recorder | None = None
    ) -> None:
        self.module, self.compute = module, compute
        self.recorder: Recorder = recorder or CudaRecorder()
        self.steps: dict[Hashable, RecordedStep] = {}
        self.ordinary: Counter[Hashable] = Counter()
        self.executed = {"replayed": 0, "ordinary": 0}
        self.replayed: RecordedStep | None = None
        self.addresses: list[int] = []
        log.info(
            "trainer.execution=graphed: records the %s only; optimizer, masks and metrics run as without it", RECORDED
        )

    def forward(self, x: Tensor, y: Tensor) -> Outputs:
        """Return logits and loss of a batch; a replayed step computes its gradients at the same time."""
        key = (x.shape, x.dtype, y.shape, y.dtype)
        self.replayed = None
        if self.ordinary[key] < WARM_UP or records_dense_gradients(self.module.parameters()):
            self.ordinary[key] += 1
            self.executed["ordinary"] += 1
            with self.recorder.beside():
                return self.compute(x, y)
        if key not in self.steps:
            self.steps[key] = self._record(x, y)
        self.replayed = step = self.steps[key]
        step.x.copy_(x, non_blocking=True)
        step.y.copy_(y, non_blocking=True)
        step.replay()
        self.executed["replayed"] += 1
        return step.outputs

    def backward(self, loss: Tensor) -> None:
        """Give the parameters the gradients of the loss that `forward` has returned last."""
        if self.replayed is None:
            with self.recorder.beside():
                loss.backward()  # type: ignore[no-untyped-call]
        else:
            for parameter, gradient in self.replayed.gradients:
                parameter.grad = gradient

    def check(self) -> None:
        """Forget all recorded steps if parameters or buffers lie elsewhere than they did when it was called before."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        addresses = [self.recorder.address(tensor) for tensor in tensors]
        if addresses != self.addresses:
            self.forget()
        self.addresses = addresses

    def forget(self) -> None:
        """Forget all recorded steps, because something has changed that they hold as constants.

        Ordinary steps come first again, which allocate what the change needs.
        """
        if self.steps:
            self.recorder.forget()
        self.steps.clear()
        self.ordinary.clear()
        self.replayed = None

    def describe(self) -> dict[str, Any]:
        """Return what was recorded and the numbers of steps of either kind; warn if no step was replayed."""
        if not self.executed["replayed"]:
            log.warning("trainer.execution=graphed: no step was replayed, because each was an ordinary one")
        return {"recorded": RECORDED, **self.executed}

    def _record(self, x: Tensor, y: Tensor) -> RecordedStep:
        """Record the step of a batch of this shape.

        Raises:
            RunFailed: the network waits for the GPU, or does something else that cannot be recorded.
        """
        x, y = x.clone(), y.clone()
        parameters: list[Tensor] = list(self.module.parameters())
        for parameter in parameters:
            parameter.grad = None  # so that the recorded backward pass makes them anew, and never adds to them

        def step() -> Outputs:
            logits, loss = self.compute(x, y)
            with autocast_off(x.device.type):
                loss.backward()  # type: ignore[no-untyped-call]
            return logits.detach(), loss.detach()

        try:
            with no_cached_casts():
                outputs, replay = self.recorder.record(step)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise RunFailed(
                f"trainer.execution=graphed: the training step cannot be recorded ({reason}); must be auto, masked or "
                "compiled"
            ) from error
        gradients = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        return RecordedStep(x, y, outputs, gradients, replay)


@contextmanager
def no_cached_casts() -> Iterator[None]:
    """Cast weights for autocast in every use: a cast that was cached before would not be recorded, and grow old."""
    enabled = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)


@contextmanager
def autocast_off(device: str) -> Iterator[None]:
    """Leave autocast, as the backward pass of an ordinary step does, which Lightning calls outside of it."""
    if not (device in ("cuda", "cpu") and torch.is_autocast_enabled(device)):
        yield
        return
    torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, True)
