"""What runs: the gateway, the engines and the supervisor that keeps them. Importing it loads no torch."""
