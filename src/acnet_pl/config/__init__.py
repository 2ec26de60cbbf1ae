"""What a command line and its configurations say, read before anything heavy is imported; and the parser of `fit`."""
