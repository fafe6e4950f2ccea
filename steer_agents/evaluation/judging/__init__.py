"""Judging what steering did: revealed preferences (Elo), depth of a concept, attempts within a reply. See README.md in this folder."""
