"""One file a stage: its `STAGE` says all that is known of it. `work` has what builds, and imports torch."""
