"""Set-points held in closed loop, with a bound on harm; see README.md."""
