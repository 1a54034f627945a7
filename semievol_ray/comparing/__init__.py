"""Arms of one task beside each other, over seeds: what each is worth, and how sure that is."""
