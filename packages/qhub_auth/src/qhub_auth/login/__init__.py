"""Coming in, staying in, and going: what the authenticator is made of."""
