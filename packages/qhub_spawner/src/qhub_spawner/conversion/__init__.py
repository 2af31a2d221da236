"""From KubeSpawner's ``profile_list`` to profiles: what ``qhub-spawner convert`` does.

`lists` reads a list, `overrides` its ``kubespawner_override``, `rules` who may have what and what
people may write, `texts` its HTML; all pure. `sources` finds the list in a hub's configuration.
"""

from qhub_spawner.conversion.lists import Conversion, Note, converted

__all__ = ["Conversion", "Note", "converted"]
