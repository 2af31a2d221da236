"""Run by ``python -m``, and first in an installed copy."""

from __future__ import annotations

import sys

from qhub_auth.folders.main import main

sys.exit(main())
