"""The command line: thin words over the packages; its composition roots wire concrete parts together."""
