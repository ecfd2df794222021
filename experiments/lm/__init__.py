"""Language models, a Transformer and an LSTM, with parameters and state sharded."""
