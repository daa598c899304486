"""How much may be asked: reserved before a request goes to an engine, settled when vLLM has told what it took."""
