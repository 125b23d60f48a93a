"""Pictures of a plan: who holds what where, and what happens when. Knows nothing of how a plan was found."""
