"""Where the settings are. An installed copy has the file that was named when it was installed."""

from __future__ import annotations

SETTINGS = "/etc/qhub/folders.json"
