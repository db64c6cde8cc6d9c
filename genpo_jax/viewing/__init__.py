"""Show a trained policy: a page that plays recorded episodes, videos and image strips."""
