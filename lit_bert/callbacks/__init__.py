"""Callbacks: each can be handed to any Trainer, and left out of any."""
