"""Self-supervised methods as plugins: those installed, a project for a new one, its views drawn."""
