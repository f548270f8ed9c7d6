"""Models in memory: vision tower and projector alone, or the whole model; their inputs and outputs."""
