"""Audio input: files and arrays to waveforms, and waveforms to log-mel features."""
