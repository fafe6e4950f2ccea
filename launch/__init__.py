"""What people start: the command line and the experiments. Nothing imports this package."""
