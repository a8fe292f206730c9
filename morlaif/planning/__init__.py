"""From a config to the units that it means, and what they read from outside."""
