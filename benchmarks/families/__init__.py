"""Every image family of transformers' multimodal auto mapping, at a size that a laptop holds hundreds of."""
