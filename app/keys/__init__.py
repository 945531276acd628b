"""API keys: what one is, where they are kept, whom one identifies. What a request must bring is in `app.api.access`."""
