"""A training config for a data set, and how long that training will take on this machine."""

from fdd.recipe.recipe import NETWORKS, Network, Recipe, default_network, make_recipe, write_config

__all__ = ["NETWORKS", "Network", "Recipe", "default_network", "make_recipe", "write_config"]
