"""Without a GPU the Triton kernels run in Triton's interpreter, which reads this when a kernel is decorated."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
