"""The command `demo`: scenes, the providers that record them, and three ways to show them."""
