"""Training the agent itself, or what chooses for it: few weights beside a frozen model. See README.md in this folder."""
