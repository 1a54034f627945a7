"""Measured claims: a script for each, in folders by subject."""
