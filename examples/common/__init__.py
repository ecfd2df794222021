"""What the examples share: the command line and the run directory."""
