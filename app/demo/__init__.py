"""The demo page: its files, and the JSON interface by which its forms write rows."""
