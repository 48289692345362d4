"""From points to logits: query generator, pseudo label branch, auxiliary semantic branch."""
