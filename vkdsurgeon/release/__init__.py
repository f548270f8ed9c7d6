"""From a base to a release: the pipeline, its attestations, and what an auditor checks."""
