"""What would stop or surprise a study, told before anything runs."""
