"""Speed, as ratios to doing nothing: `make bench`. See README.md of this folder."""
