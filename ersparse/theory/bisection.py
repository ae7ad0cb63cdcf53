"""Search for the smallest integer that satisfies a monotone condition."""

from collections.abc import Callable


def smallest_integer(condition: Callable[[int], bool]) -> int:
    """Return the smallest positive integer that satisfies `condition`, by doubling and bisection.

    Args:
        condition: a monotone predicate; once it holds, it holds for every larger integer.
    """
    low, high = 0, 1
    while not condition(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if condition(middle) else (middle, high)
    return high
