"""Direct preference optimisation: a policy that learns from verdicts on pairs, without a reward in between."""
