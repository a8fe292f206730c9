"""Policies for many weights of their principles: grids of weights, and merging policies instead of training more."""
