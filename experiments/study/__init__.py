"""The mix-and-match study: 18 optimizers, their control, and a mixture of theirs."""
