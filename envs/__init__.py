"""Environments, registered with gymnasium on import. See README.md of this folder."""
