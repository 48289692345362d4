"""Proof that a training is given points, and no box, area or mask."""
