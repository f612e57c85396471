"""Speech to text with a Whisper, pruned or not."""
