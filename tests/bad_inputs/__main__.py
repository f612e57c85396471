"""`python -m tests.bad_inputs > docs/bad-inputs.md` writes the page anew."""

import torch

from . import everything, page, stage

if __name__ == "__main__":
    torch.set_num_threads(1)
    with stage():
        written = page(everything())
    print(written, end="")
