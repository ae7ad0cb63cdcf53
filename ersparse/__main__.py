"""python -m ersparse"""

import sys

from ersparse.cli import main

sys.exit(main())
