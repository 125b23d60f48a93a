"""OpenAI's Responses: `fields` and `items` (what a body says), `form` (the answer), `store` and `routes`."""
