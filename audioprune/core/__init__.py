"""Where methods and models meet: tokens, the tensor functions of both, pruning, traces and counts."""
