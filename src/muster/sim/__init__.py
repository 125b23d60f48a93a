"""What a plan will do on a pool: in closed form, and event by event. Deterministic; no torch, no clock of its own."""
