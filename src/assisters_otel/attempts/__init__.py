"""What is in flight: attempts, the calls they belong to, and the task or thread they run in."""
