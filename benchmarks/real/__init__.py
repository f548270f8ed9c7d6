"""A case on real pretrained weights: DINOv2-small as the tower of Gemma 3 270M, trained on invented emblems.

`python -m benchmarks.real fetch` downloads the weights, `build` composes base and gold, `run` measures recipes on them.
"""
