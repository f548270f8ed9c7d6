"""Atomic writes, directories owned by a running process, and copies made by the kernel."""
