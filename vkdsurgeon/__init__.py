"""Surgery on the visual knowledge of multimodal checkpoints.

Importing this package imports neither torch nor transformers.
"""

__version__ = "0.1.0"
