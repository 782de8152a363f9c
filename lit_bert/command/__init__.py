"""What the command line is made of: its parser, options and defaults, what it starts from, and how it ends."""
