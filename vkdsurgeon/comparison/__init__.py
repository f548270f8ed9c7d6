"""Comparing several unlearning methods on the same data."""
