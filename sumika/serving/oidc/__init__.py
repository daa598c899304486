"""OpenID Connect: people and programs of the company's own issuers. Tokens are refused unless every check passes."""
