"""Authentication: API keys, JSON Web Tokens and loopback clients."""
