"""The nouns: frozen records that every other folder speaks in. They never do I/O.

Reading order: `model_shape`, `pool`, `plan`, `sampling`, `request`, `scenario`.
What people write: `written` (strict TOML), `devices` (hardware facts), `pool_file` by way of `link_table` and
`named_links`, `pool_text` (the way back), `fleets` (published ones, by name), `link_matrix` (all links as arrays),
`plan_file` (a plan with everything it rests on; `plan_check` refuses what cannot be one), `prices` (dated).
What state machines share: `story` (the last events and what was decided).
"""
