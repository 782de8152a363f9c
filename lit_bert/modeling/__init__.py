"""What the encoder is made of, and how it is optimized."""
