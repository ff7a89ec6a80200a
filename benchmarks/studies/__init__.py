"""Studies of the statistics on data whose truth is known; each writes its page and picture to docs/studies (make figures)."""
