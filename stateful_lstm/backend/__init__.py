"""The machinery that users never import: operators, checks of arguments, autograd."""
