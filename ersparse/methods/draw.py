"""Drawing only: densities, degrees and repairs are recorded, nothing is trained (Tables 5 and 6, Figure 6)."""

from ersparse.methods.base import Method


class Draw(Method):
    """The source network, and nothing more."""

    trains = False
