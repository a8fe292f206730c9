"""Labelling pairs of responses under a principle: who judges, how the question is put, what a verdict is worth."""
