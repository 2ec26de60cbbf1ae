"""Command lines and configurations, read before anything heavy is imported; and the parser of `fit`."""
