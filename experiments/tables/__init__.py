"""Tables I, II and III of the diffGrad paper, with the control that they lack."""
