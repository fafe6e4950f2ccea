"""Sparse autoencoders: loaded or trained, read as features, and edited with the reconstruction error kept. See the README.md here."""
