"""`python -m zoo` is the command `zoo`."""

import sys

from zoo_cli import main

sys.exit(main())
