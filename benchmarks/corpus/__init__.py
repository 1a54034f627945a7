"""What a corpus costs before and after its answers: reading, selecting, writing training rows."""
