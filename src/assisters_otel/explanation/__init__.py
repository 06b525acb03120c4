"""What an error means, and what to do about it."""
