"""What a command needs around the heart: its options, what it starts from, its folder, its Trainer, its end."""
