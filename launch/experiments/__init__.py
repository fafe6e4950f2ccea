"""One file per experiment; each regenerates one table of the README."""
