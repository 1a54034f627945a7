"""What a plan says against what a run takes."""
