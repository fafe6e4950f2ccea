"""Latent-noise steering: which noise a flow or diffusion policy starts from. See README.md of this folder."""
