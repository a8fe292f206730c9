"""Comparison of policies by people: a blinded form for raters, and what its answers say."""
