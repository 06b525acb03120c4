"""The meaning of an error, and what to do: `evidence` finds the facts, `explain` judges them."""
