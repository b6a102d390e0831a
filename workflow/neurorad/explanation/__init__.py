"""What a probe looked at."""
