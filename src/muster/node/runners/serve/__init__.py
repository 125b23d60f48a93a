"""Serving: the stages of a ring that generates tokens.

Reading order: `accept` (settings that make sense), `ring` (whom a stage hears and tells), `first` (the stage that
schedules and talks to sessions), `later` (the others), `receipts` (what they sign of what they got and gave),
`calibrating` (before they serve through packed links), `kind` (from an assignment to one of these).
"""
