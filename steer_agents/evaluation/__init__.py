"""What a rollout showed: intervals, paired comparisons, plots and the report."""
