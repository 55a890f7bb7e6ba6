"""Times of packed networks, beside the same networks without bits."""
