"""Who may have which role in a private session, so that nobody sees enough. No torch, no clock.

Reading order: `gaps` (what a set of roles sees of a prompt, and what a search for the rest costs), `designs` (which
shards a party may see), `placement` (roles for machines), `in_words` (what that protects).
"""
