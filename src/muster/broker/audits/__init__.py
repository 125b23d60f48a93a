"""What machines have signed of their work.

Reading order: `shelf` (receipts of the last requests).
"""
