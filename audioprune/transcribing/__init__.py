"""Speech to text with Whisper, pruned or not."""
