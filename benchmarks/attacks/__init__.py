"""Every attack on the built-in miniature, on several methods and on gold: `python -m benchmarks.attacks`."""
