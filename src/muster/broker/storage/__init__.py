"""What survives a restart.

Reading order: `tables`, `database` (opens one, and makes the tables in it), `store` (what is done with them), `saving`
(records on their way there).
"""
