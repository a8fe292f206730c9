"""How each stage builds its units: what imports torch. What else is known of a stage is in `morlaif.stages`."""
