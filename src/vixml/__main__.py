"""Let ``python -m vixml`` do what ``vixml`` does."""

import os
import sys

from vixml.cli import main

status = main()
if status and int(os.environ.get("WORLD_SIZE", "1")) > 1:
    # One of several processes that train together failed: leave at once, or it may wait here for an answer of the others,
    # who wait for it. torchrun then ends them.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
sys.exit(status)
