"""Forgetting that is harder to undo: simulated attacks, identity heads, flat minima, projected updates."""
