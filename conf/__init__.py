"""The config tree; see config.yaml."""
