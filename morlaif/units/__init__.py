"""A unit of work: what it is, where it lies finished, how it is built. Knows no stage."""
