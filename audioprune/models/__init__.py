"""Model classes that transformers does not have, and readers of the authors' weight files.

Importing `audioprune.models.audiomae` registers AudioMAE with transformers' Auto classes.
"""
