"""The web edge: WebSocket, server-sent events, health, metrics and the demo page, on aiohttp.

It knows the flow only through the small protocols of `ports.py`; concrete things are handed in by the roof.
"""
