"""Drawing only: densities, degrees and repairs are recorded, nothing is trained (Tables 5 and 6, Figure 6)."""

from ersparse.methods.base import Method


class Draw(Method):
    """Draws, repairs and records the source network, and ends there."""

    trains = False
