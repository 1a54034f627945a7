"""What a run gains, over seeds, beside what a user would pick instead."""
