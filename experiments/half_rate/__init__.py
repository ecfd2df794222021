"""Whether friction is more than half of the learning rate."""
