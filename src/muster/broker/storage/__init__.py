"""What survives a restart.

Reading order: `tables`, `store` (what is done with them), `saving` (records on their way there).
"""
