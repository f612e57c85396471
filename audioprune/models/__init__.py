"""Model classes that transformers lacks, and the reading of the authors' weight files.

Importing `audioprune.models.audiomae` registers AudioMAE with transformers' Auto classes.
"""
