"""The page of `audioprune app`: predictions for a sound with and without pruning, and the kept patches.

`answer` computes and does not know the page. `page` does the layout and computes nothing. Only `page` and `server` need
Gradio.
"""
