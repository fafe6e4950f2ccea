"""Many trials of one policy, on one machine or on a cluster: `steer-agents sweep`. See README.md."""
