"""Patch files: the changed values of a checkpoint and nothing else, and how they are applied."""
