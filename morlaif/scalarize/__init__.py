"""From K scores to one: pure functions on `(batch, K)`, their registry, and the objective that weighs them."""
