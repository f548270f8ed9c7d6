"""Models that hear: a small one that learns invented voices, and Whisper's encoder.

`python -m benchmarks.audio voices` trains base and gold, unlearns and asks; `... whisper` runs a real tower alone.
"""
