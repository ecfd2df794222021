"""ResNets on CIFAR-10, CIFAR-100 or scikit-learn's digits."""
