"""What `llm-effects` is made of: a bench that writes and measures texts, one study for all effects, and the effects."""
