"""Whole files or none, directories of our own, copies by the kernel."""
