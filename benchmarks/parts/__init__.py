"""What the gateway's benchmark is made of."""
