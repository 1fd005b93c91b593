"""Let ``python -m vixml`` do what ``vixml`` does."""

import sys

from vixml.cli import main

sys.exit(main())
