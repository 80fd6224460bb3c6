"""Samplers that follow gradients of batches: SGLD, pSGLD, SGHMC and their cyclical kin."""
