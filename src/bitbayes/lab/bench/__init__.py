"""How fast packed networks run, beside the same networks without bits."""
