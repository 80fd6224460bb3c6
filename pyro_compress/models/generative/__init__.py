"""Models with a code per example: what the code is, encoder and decoder, the variational autoencoder."""
