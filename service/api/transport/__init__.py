"""uvicorn's protocol with our bounds, and the early refusal."""
