"""``mvqkd serve``: speech recognition over WebSocket and HTTP, without torch."""
