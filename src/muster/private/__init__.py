"""Private prompts: a model whose layers run on machines none of which gets all tokens.

Reading order: `partial` (attention over some of the keys, and how parts become a whole), `orders` (who gets which rows
of a step), `attn_node`, `comp_node` and `client` (the three roles; each takes messages and gives messages), `traffic`
(bytes, by formula), `local` (all roles in one process), `sentinels` (who computes wrongly). Which machine should have
which role is `plan/private`.
"""
