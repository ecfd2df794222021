"""Optimizers on functions of two parameters, their rates chosen by one search."""
