"""The pod that stays: base-model weights, model loading, engines and the HTTP server."""
