"""Attention with scores of the attention that each token receives, its GPU kernels, and packed weights for CPUs."""
