"""Preference models: training on verdicts, and scoring dialogues under K principles at once."""
