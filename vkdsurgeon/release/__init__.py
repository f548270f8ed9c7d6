"""Releases: the pipeline, its attestations, and the checks of an auditor."""
