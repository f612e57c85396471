"""Transcriptions of many sounds by a Whisper whose encoder is pruned."""
