"""What a model writes to call a tool or to think, and what it is told about its tools. Knows no HTTP and no tokens.

Read in this order: events (what a reader makes of a text), source (a text that comes in pieces), turn (what all
families' parsers have in common), the families (hermes, ...), families (which of them a model is), reading (a choice's
text to events).
"""
