"""`python -m fluxbooth` is the command `fluxbooth`."""

import sys

from fluxbooth.cli import main

sys.exit(main())
