"""Audio-language models on the papers' benchmarks: readers, prompts, metrics, and one table of methods by keep rates.

CIDEr needs the `lm` extra: `pip install 'audioprune[lm]'`.
"""
