"""Run-time steering of pretrained policies."""
