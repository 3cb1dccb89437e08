"""What every training of the tests needs, imported and made once by the process that forks them."""

import torch
import torch._dynamo
import torch.utils.tensorboard

import medtrace.engines
import medtrace.metrics
import medtrace.workflows.train  # noqa: F401
from medtrace.data import TraceBench

torch.set_num_threads(1)  # a pool of threads does not survive a fork
TraceBench("misaligned", (32, 32), cases=1)[0]  # loads the template and compiles the kernels
