"""Tensors of the tests are tiny: more than one thread a process only gets in the way of the others.

Where there is no GPU kernels run in Triton's interpreter, which must be told before Triton is loaded; torch does not
load it on its own.
"""

from __future__ import annotations

import os

import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
