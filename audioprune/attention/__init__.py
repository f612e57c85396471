"""Attention that also tells what each token received, its kernel for GPUs, and weights laid out for CPUs."""
