"""Tensors of the tests are tiny: more than one thread a process only gets in the way of the others."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
