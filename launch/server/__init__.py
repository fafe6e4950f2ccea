"""A policy on one machine, its robot on another: authenticated messages over a websocket."""
