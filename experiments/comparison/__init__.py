"""Which optimizer to choose: all of them, their learning rates tuned by one rule."""
