"""Examples that a pruner scores with, from a batch or a loader."""

import torch

from ersparse.loops.examples import OwnExamples


def test_the_first_examples_are_taken_over_batches():
    x, y = torch.arange(14.0).reshape(7, 2), torch.arange(7)
    for given in ((x, y), [(x[:3], y[:3]), (x[3:5], y[3:5]), (x[5:], y[5:])]):
        for count in (1, 3, 4, 5, 6, 7, 9):
            ((inputs, labels),) = OwnExamples(given, torch.device("cpu")).some(count)
            assert inputs.equal(x[:count]) and labels.equal(y[:count])
