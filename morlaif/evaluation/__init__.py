"""Comparison of policies, preference models and objectives: statistics, judges, win rates."""
