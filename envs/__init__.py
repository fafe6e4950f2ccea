"""Environments, registered with gymnasium on import. See README.md of this folder."""

import envs.bandits as _bandits  # noqa: F401 - importing it registers its ids
import envs.libero as _libero  # noqa: F401
import envs.tabletop as _tabletop  # noqa: F401
