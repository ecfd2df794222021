"""Measurements, run by hand: nothing here is timed in a test."""
