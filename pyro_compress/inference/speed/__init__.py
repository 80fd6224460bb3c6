"""What makes steps cheap: recording, compiling, vectors in place of tensors; knows no method."""
