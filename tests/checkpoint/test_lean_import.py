"""A library that only models which detect objects need is not imported, and is there for whoever calls it."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import sys
from vkdsurgeon.checkpoint.lean_import import spare_scipy

spare_scipy()
from transformers.loss import loss_for_object_detection as loss

print("scipy.optimize" in sys.modules)
print(loss.linear_sum_assignment([[1, 0], [0, 1]])[1].tolist())
from scipy.optimize import brentq

print(callable(brentq))
"""


def test_scipy_is_imported_when_boxes_are_matched() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["False", "[1, 0]", "True", ""]
