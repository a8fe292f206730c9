"""Policies for many weights of their principles: grids of weights, merging policies, one policy that is told them."""
