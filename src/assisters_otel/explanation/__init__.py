"""What an error means, and what to do about it: `evidence` finds the facts, `explain` judges."""
