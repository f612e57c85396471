"""The page of `audioprune app`: hear a sound with and without pruning, and see what was kept.

`answer` computes and knows no page, `page` lays out and computes nothing. Only `page` and `server` need Gradio.
"""
