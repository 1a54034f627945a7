"""`python -m semievol_ray` is the command `semievol`."""

import sys

from semievol_ray.cli import main

sys.exit(main())
