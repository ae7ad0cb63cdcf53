"""`python -m ersparse` runs the `ersparse` command."""

import sys

from ersparse.cli import main

sys.exit(main())
