"""What the examples share: the command line, optimizers by name, the run directory."""
