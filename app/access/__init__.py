"""The access edge: which keys there are, and whether a token holds by one of them.

Only here is a token taken apart. The rest of the server knows an `Identity` (app.model.claims), and not where it comes
from. pyjwt is used by app.access.tokens and app.access.keys alone.
"""
