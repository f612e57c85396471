"""`python -m audioprune`, which `torchrun -m` needs."""

from .cli import main

if __name__ == "__main__":
    main()
