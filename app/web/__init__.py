"""The web edge: WebSocket, server-sent events, health, metrics and the demo page, on aiohttp.

It knows the rest of the server only through the small Protocols of `ports.py`. The roof hands in what fulfils them.
"""
