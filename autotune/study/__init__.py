"""A study, from launch to verified winner: what is measured next, how often, and what it proves."""
