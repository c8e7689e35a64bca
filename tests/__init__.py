"""A package of this name, so that none of an installed distribution is found in its place."""
