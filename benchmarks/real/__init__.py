"""A case on real pretrained weights: DINOv2-small's eyes on Gemma 3 270M, taught invented emblems.

`python -m benchmarks.real fetch` downloads the weights, `build` composes base and gold, `run` measures recipes on them.
"""
