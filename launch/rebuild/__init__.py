"""Recipes: how the embedded policies are made again. See README.md of this folder."""
