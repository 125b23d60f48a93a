"""What machines have signed of their work, and how it is checked.

Reading order: `shelf` (receipts of the last requests), `reputation` (how often whose work is looked at), `auditing`
(who looks, and what follows). The last two decide; nothing carries that out in a pool yet.
"""
