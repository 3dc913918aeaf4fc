"""A whole folder of pictures, through a few lanes at once."""
