"""Published benchmarks as they lie on disk, read into records."""
