"""Tensors of the tests are tiny: more than one thread a process only gets in the way of the others.

Kernels run in Triton's interpreter, so that they are tested without a GPU; it must be told before Triton is loaded.
"""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import torch

torch.set_num_threads(1)
