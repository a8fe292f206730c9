"""Experiments in multi-objective reinforcement learning from AI feedback."""
