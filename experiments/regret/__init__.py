"""Regret in online convex optimization: diffGrad's Theorem 1 and counterexamples."""
