#!/usr/bin/env python
"""Draw a sparse Erdős–Rényi network, repair its flow, train it: python launch.py --help."""

import sys

from ersparse.cli import launch

if __name__ == "__main__":
    sys.exit(launch())
