"""Training programs to fork; each folder is one, with a README of its own."""
