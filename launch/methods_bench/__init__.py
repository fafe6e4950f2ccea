"""Every method of the library on one subject, under one protocol: what steers, how surely, at what cost."""
