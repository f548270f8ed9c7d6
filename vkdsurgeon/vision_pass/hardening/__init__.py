"""Forgetting that is harder to undo: simulated attacks and identity heads."""
