"""Audio-language models on the papers' benchmarks: readers, prompts, metrics, and a table of methods by keep rate.

CIDEr needs the `eval-lm` extra: `pip install 'audioprune[eval-lm]'`.
"""
