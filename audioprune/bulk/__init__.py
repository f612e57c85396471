"""Work on many sounds: what they are called, the rows of results, and runs that survive a kill. No PyTorch."""
