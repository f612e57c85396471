"""`python -m tests.around > docs/around-your-model.md` writes the page anew."""

import sys
from contextlib import redirect_stdout

import torch

from . import page

if __name__ == "__main__":
    torch.set_num_threads(1)
    with redirect_stdout(sys.stderr):  # where a Trainer's own lines belong
        written = page()
    print(written, end="")
