"""Families whose model class does not say by one method how it sees: one small file each, with a class `Features`.

Each repeats, step by step, what the forward pass of the model class does between the image processor's tensors and
the language model, and names the lines by what they compute.
"""
