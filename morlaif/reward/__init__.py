"""Where the scores come from that PPO learns from: preference models, a judge, a function, or several side by side."""
