"""Deployment on a robot: gate, control process, robots, recorder. See README.md of this folder."""
