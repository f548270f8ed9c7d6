"""Patch files: the changed values of a checkpoint, and how they are applied."""
