"""What the package runs on, and users never import: operators, checks, autograd."""
