"""What runs or exports packed networks."""
