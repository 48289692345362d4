"""Side-by-side measurements of this package and of plainer arrangements of the same computation."""
