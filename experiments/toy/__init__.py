"""The diffGrad paper's functions of one parameter."""
